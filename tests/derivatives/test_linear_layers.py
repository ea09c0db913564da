"""What moved linear layers add, against products with their own Z; what isn't theirs is left."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from curvature.derivatives.linear_layers import LinearLayers
from curvature.derivatives.second_differences import moved_along
from tests.conftest import seeded
from tests.corpus.case import f64, randn

H_STEP = 1e-2


class Twice(nn.Module):
    """A layer used twice, one patched from outside, one followed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).tanh_()
        out: Tensor = self.last(self.twice(self.twice(x).sigmoid()))
        return out


def built(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().double()


def tokens() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3)
    )


def image() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.SiLU(), nn.Conv2d(3, 4, 2, groups=1), nn.Tanh()
    )


CASES = {
    "tokens": (tokens, randn(5, 7, 4), {"0", "2", "4"}),
    "convolutions": (image, randn(5, 2, 6, 6), {"0", "2"}),
    "used twice": (Twice, randn(5, 4), {"first", "last"}),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_gradient_and_a_product_with_what_moved_the_inputs(name: str) -> None:
    make, x, layers = CASES[name]
    model = built(make)
    params = dict(model.named_parameters())
    found = LinearLayers(model, params, lambda: model(x), list(params))
    assert found.covered == {f"{layer}.{own}" for layer in layers for own in ("weight", "bias")}

    r = torch.randn(model(x).shape, generator=seeded(1), dtype=f64)
    _, _, _, held = found.hold(lambda: model(x), [], lambda f: r)
    gradients = torch.autograd.grad((model(x) * r).sum(), list(params.values()))
    z = [torch.randn(p.shape, generator=seeded(2), dtype=f64) for p in params.values()]
    with moved_along(list(params.values()), z, H_STEP):
        moved: dict[str, Tensor] = {}
        hooks = [
            model.get_submodule(layer).register_forward_hook(
                lambda m, a, o, layer=layer: moved.update({layer: a[0].detach().clone()})
            )
            for layer in layers
        ]
        with torch.no_grad():
            f, change = found.changed(lambda: model(x), held)
            assert torch.equal(f, model(x))
        for hook in hooks:
            hook.remove()
    own = dict(zip(params, z, strict=True))
    expected = sum(
        H_STEP * float((g * own[n]).sum())
        for n, g in zip(params, gradients, strict=True)
        if n in found.covered
    )
    for layer in layers:
        module = model.get_submodule(layer)
        bent = moved[layer] - held.x[module]
        saved = {k: p.detach().clone() for k, p in module.named_parameters()}
        with torch.no_grad():
            module.weight.copy_(own[f"{layer}.weight"])
            if module.bias is not None:
                module.bias.zero_()
            expected += H_STEP * float((held.delta[module] * module(bent)).sum())
            for k, p in module.named_parameters():
                p.copy_(saved[k])
    assert float(change) == pytest.approx(expected, rel=1e-9)


def test_the_second_order_has_mean_zero() -> None:
    x = randn(5, 7, 4)
    model = built(tokens)
    params = dict(model.named_parameters())
    found = LinearLayers(model, params, lambda: model(x), list(params))
    r = torch.randn(5, 7, 3, generator=seeded(1), dtype=f64)
    _, _, _, held = found.hold(lambda: model(x), [], lambda f: r)
    generator = seeded(3)
    second = []
    for _ in range(600):
        z = [
            torch.randint(2, p.shape, generator=generator).double() * 2 - 1 for p in params.values()
        ]
        sides = []
        for h in (0.3, -0.3):
            with moved_along(list(params.values()), z, h), torch.no_grad():
                sides.append(float(found.changed(lambda: model(x), held)[1]))
        second.append(sum(sides))
    values = torch.tensor(second)
    assert float(values.std()) > 0.1
    assert abs(float(values.mean())) <= 4 * float(values.std()) / 600**0.5


@pytest.mark.parametrize("way", ["hook", "method", "frozen"])
def test_a_layer_that_isnt_itself_or_stands_still_is_left_out(way: str) -> None:
    x = randn(5, 4)
    model = built(tokens)
    layer = model[2]
    if way == "hook":
        layer.register_forward_hook(lambda module, args, output: 2 * output)
    elif way == "method":
        layer.forward = lambda x: x @ layer.weight.T + 2 * layer.bias
    params = {name: p for name, p in model.named_parameters() if way != "frozen" or name[0] != "2"}
    found = LinearLayers(model, params, lambda: model(x), list(params))
    assert found.covered == {"0.weight", "0.bias", "4.weight", "4.bias"}
    assert LinearLayers(model, params, lambda: model(x), ()).covered == set()
