"""Squared norms of per-example gradients: every rule, and every way around one, against a loop."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curvature.derivatives import layer_rules
from curvature.derivatives.per_example import Recording, distrusted, record
from tests.conftest import seeded
from tests.corpus.case import f64, labels, randn

IMAGE, LINE, VECTOR, WORDS = randn(5, 4, 6, 7), randn(5, 4, 9), randn(5, 6), labels(5, 7, classes=4)


class Apply(nn.Module):
    def __init__(self, function: Callable[..., Tensor], **modules: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, thing in modules.items():
            setattr(self, name, nn.Parameter(thing) if isinstance(thing, Tensor) else thing)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def loop(model: nn.Module, x: Tensor, seeds: Tensor) -> dict[str, Tensor]:
    squares: dict[str, list[Tensor]] = {name: [] for name, _ in model.named_parameters()}
    for i in range(len(x)):
        f = model(x[i : i + 1])
        grads = torch.autograd.grad(
            f, list(model.parameters()), seeds[i : i + 1], materialize_grads=True
        )
        for name, g in zip(squares, grads, strict=True):
            squares[name].append(g.square().sum())
    return {name: torch.stack(values) for name, values in squares.items()}


def prepared(model: nn.Module) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
            if isinstance(getattr(module, "weight", None), Tensor):
                with torch.no_grad():
                    module.weight.normal_()
    return model.double().eval()


def recorded(model: nn.Module, x: Tensor) -> tuple[Recording, Tensor]:
    recording = record(model, dict(model.named_parameters()), lambda: model(x))
    return recording, torch.randn(recording.outputs.shape, generator=seeded(2), dtype=f64)


COVERED = {
    "linear": (nn.Linear(6, 3), VECTOR),
    "linear on tokens": (nn.Linear(9, 3), LINE),
    "wide linear on few tokens": (nn.Linear(9, 40), LINE),
    "convolution": (nn.Conv2d(4, 3, 3, padding=1), IMAGE),
    "kernel (2, 3), dilated": (nn.Conv2d(4, 3, (2, 3), dilation=(1, 2)), IMAGE),
    "pointwise": (nn.Conv2d(4, 30, 1), IMAGE),
    "strided": (nn.Conv2d(4, 3, 3, stride=2, padding=1), IMAGE),
    "strided past the end": (nn.Conv2d(4, 3, 2, stride=(3, 2)), IMAGE),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2, padding=1), IMAGE),
    "depthwise, strided": (nn.Conv2d(4, 4, 3, groups=4, stride=2), IMAGE),
    "same padding": (nn.Conv2d(4, 3, (5, 3), padding="same"), IMAGE),
    "circular padding": (nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular"), IMAGE),
    "reflected padding": (nn.Conv2d(4, 3, 3, padding=(1, 2), padding_mode="reflect"), IMAGE),
    "many channels, few positions": (nn.Conv2d(4, 64, 5, padding=(0, 0)), IMAGE),
    "convolution in one dimension": (nn.Conv1d(4, 3, 3, padding=2, dilation=2), LINE),
    "strided in one dimension": (nn.Conv1d(4, 3, 3, stride=2), LINE),
    "batch norm": (nn.BatchNorm2d(4), IMAGE),
    "batch norm of vectors": (nn.BatchNorm1d(6), VECTOR),
    "layer norm": (nn.LayerNorm(9), LINE),
    "layer norm over two": (nn.LayerNorm((4, 9)), LINE),
    "group norm": (nn.GroupNorm(2, 4), IMAGE),
    "embedding with repeated words": (nn.Embedding(4, 3), WORDS),
    "embedding with padding": (nn.Embedding(4, 3, padding_idx=0), WORDS),
    "in-place activation behind": (
        nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)),
        VECTOR,
    ),
    "no bias, part frozen": (
        nn.Sequential(
            nn.Linear(6, 4, bias=False), nn.Tanh(), nn.Linear(4, 3).requires_grad_(False)
        ),
        VECTOR,
    ),
}


@pytest.mark.parametrize("name", COVERED)
def test_rules_agree_with_a_loop(name: str) -> None:
    model, x = COVERED[name]
    model = prepared(model)
    trainable = {k: p for k, p in model.named_parameters() if p.requires_grad}
    recording = record(model, trainable, lambda: model(x))
    seeds = torch.randn(recording.outputs.shape, generator=seeded(2), dtype=f64)
    apart, together = recording.squared_norms(seeds)
    for p in model.parameters():
        p.requires_grad_()
    expected = loop(model, x, seeds)
    assert set(apart) == set(trainable)
    assert together == {}
    for key, squares in apart.items():
        torch.testing.assert_close(squares, expected[key])


CONVOLUTIONS = [
    name for name, (model, _) in COVERED.items() if isinstance(model, nn.Conv1d | nn.Conv2d)
]


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="convolutions in groups need oneDNN"
)
@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_examples_as_groups_serve_any_convolution(
    name: str, one_by_one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = COVERED[name]
    if one_by_one:
        monkeypatch.setattr(layer_rules, "_AT_A_TIME", model.weight.numel())
    monkeypatch.setattr(layer_rules, "_SLOWER", 1e9)
    used = []
    way = layer_rules._by_groups
    monkeypatch.setattr(layer_rules, "_by_groups", lambda *a: used.append(1) or way(*a))
    model = prepared(model)
    seeds = torch.randn(model(x).shape, generator=seeded(2), dtype=f64)
    exact = loop(model, x, seeds)
    model.float()
    recording = record(model, dict(model.named_parameters()), lambda: model(x.float()))
    apart, _ = recording.squared_norms(seeds.float())
    for key, expected in exact.items():
        torch.testing.assert_close(apart[key].double(), expected, rtol=1e-5, atol=1e-5)
    assert len(used) == (len(x) * model.groups if one_by_one else 1)


def test_of_very_many_weights_no_example_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_rules, "_AT_A_TIME", 4 * 9 * 3 - 1)
    monkeypatch.setattr(layer_rules, "_by_groups", None)
    model, x = COVERED["convolution"]
    model = prepared(model).float()
    recording = record(model, dict(model.named_parameters()), lambda: model(x.float()))
    apart, _ = recording.squared_norms(torch.ones_like(recording.outputs))
    assert apart["weight"].shape == (5,)


SMALL = {
    "padded": nn.Conv2d(4, 3, 3, padding=1),
    "unevenly": nn.Conv2d(4, 3, (5, 3), padding="same"),
    "strided": nn.Conv2d(4, 3, 3, stride=(2, 1), padding=1),
    "dilated": nn.Conv2d(4, 3, 2, dilation=2, padding=1),
    "past the end": nn.Conv2d(4, 3, 3, stride=2),
    "grouped": nn.Conv2d(4, 6, 3, groups=2, padding=1),
    "mirrored": nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"),
    "one dimension": nn.Conv1d(4, 3, 3, padding=1),
}


@pytest.mark.parametrize("at_a_time", [1, 2**22])
@pytest.mark.parametrize("name", SMALL)
def test_products_of_pixels_serve_any_convolution(
    name: str, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_rules, "_AT_A_TIME", at_a_time)
    monkeypatch.setattr(layer_rules, "_SLOWER", 0)
    used = []
    way = layer_rules._by_pixels
    monkeypatch.setattr(layer_rules, "_by_pixels", lambda *a: used.append(1) or way(*a))
    model = prepared(SMALL[name])
    x = randn(3, model.in_channels, *((3, 4) if isinstance(model, nn.Conv2d) else (4,)))
    recording, seeds = recorded(model, x)
    apart, _ = recording.squared_norms(seeds)
    for key, expected in loop(model, x, seeds).items():
        torch.testing.assert_close(apart[key], expected)
    assert used


def test_products_of_pixels_are_chosen_for_small_images_of_many_channels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes = []
    way = layer_rules._by_pixels
    monkeypatch.setattr(
        layer_rules, "_by_pixels", lambda x, *a: shapes.append(x.shape[1:]) or way(x, *a)
    )
    model = prepared(
        nn.Sequential(nn.Conv2d(3, 32, 3), nn.MaxPool2d(8), nn.Conv2d(32, 64, 3, padding=1))
    )
    recording, seeds = recorded(model, randn(2, 3, 34, 34))
    recording.squared_norms(seeds)
    assert shapes == [(32, 6, 6)]


AROUND = {
    "shared layer": (
        Apply(lambda m, x: m.out(m.a(m.a(x).relu())), a=nn.Linear(6, 6), out=nn.Linear(6, 3)),
        {"a.weight", "a.bias"},
    ),
    "weight used by hand too": (
        Apply(
            lambda m, x: m.out(m.a(x)) + x @ m.out.weight.T, a=nn.Linear(6, 6), out=nn.Linear(6, 3)
        ),
        {"out.weight"},
    ),
    "a parameter of the model's own": (
        Apply(lambda m, x: m.out(x + m.shift), out=nn.Linear(6, 3), shift=randn(6)),
        {"shift"},
    ),
    "functional use": (
        Apply(lambda m, x: F.linear(x, m.out.weight, m.out.bias), out=nn.Linear(6, 3)),
        {"out.weight", "out.bias"},
    ),
    "parametrized": (
        nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)),
        {"parametrizations.weight.original0", "parametrizations.weight.original1"},
    ),
}


@pytest.mark.parametrize("name", AROUND)
def test_what_no_rule_covers_is_found_and_summed_over_the_examples(name: str) -> None:
    model, rest = AROUND[name]
    model = prepared(model)
    recording, seeds = recorded(model, VECTOR)
    assert rest <= set(recording.rest)
    apart, together = recording.squared_norms(seeds)
    expected = loop(model, VECTOR, seeds)
    for key, squares in apart.items():
        torch.testing.assert_close(squares, expected[key])
    grads = torch.autograd.grad(model(VECTOR), list(model.parameters()), seeds)
    for (key, _), g in zip(model.named_parameters(), grads, strict=True):
        if key in rest:
            torch.testing.assert_close(together[key], g.square().sum())


def test_a_parameter_that_is_not_used_counts_as_nothing() -> None:
    model = prepared(Apply(lambda m, x: m.a(x), a=nn.Linear(6, 3), b=nn.Linear(2, 2)))
    recording, seeds = recorded(model, VECTOR)
    apart, together = recording.squared_norms(seeds)
    assert set(apart) == {"a.weight", "a.bias"}
    assert together == {}


def time_first(model: Apply, x: Tensor) -> Tensor:
    return model.a(x.transpose(0, 1)).mean(0)


def patched(model: nn.Module) -> nn.Module:
    layer = model.a
    layer.forward = lambda x: 2 * F.linear(x, layer.weight, layer.bias)
    return model


UNTRUE = {
    "time before examples": (Apply(time_first, a=nn.Linear(9, 3)), LINE, {"a.weight", "a.bias"}),
    "patched forward": (
        patched(Apply(lambda m, x: m.out(m.a(x)), a=nn.Linear(6, 6), out=nn.Linear(6, 3))),
        VECTOR,
        {"a.weight", "a.bias"},
    ),
    "nothing wrong": (Apply(lambda m, x: m.a(x), a=nn.Linear(6, 3)), VECTOR, set()),
}


@pytest.mark.parametrize("name", UNTRUE)
def test_a_rule_that_does_not_hold_is_found_on_three_examples(name: str) -> None:
    model, x, wrong = UNTRUE[name]
    model = prepared(model)
    found, used = distrusted(
        model,
        dict(model.named_parameters()),
        lambda k, i: model(x[:3] if i is None else x[i : i + 1]),
        [3],
        generator=seeded(0),
        rtol=1e-6,
    )
    assert found == wrong
    assert used == set(dict(model.named_parameters()))


def test_hooks_leave_nothing_behind() -> None:
    model = prepared(nn.Linear(6, 3))
    recorded(model, VECTOR)[0].squared_norms(torch.ones(5, 3, dtype=f64))
    assert not model._forward_hooks
    assert model.weight.grad is None
