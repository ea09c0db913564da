"""Faster ways to the same products: taken only where they agree, and left where they don't."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from curvature.derivatives import attention
from curvature.empirical_risk import EmpiricalRisk
from curvature.operators import functional_hessian, ggn, hessian, risk_operator, ways
from tests.conftest import seeded
from tests.corpus.case import f64
from tests.oracles import hessian_by_differences

X = torch.randn(7, 2, 6, 6, generator=seeded(0), dtype=f64)
Y = torch.randint(3, (7,), generator=seeded(1))
DATA = [(X[:4], Y[:4]), (X[4:], Y[4:])]
NAMED = [{"x": x, "y": y} for x, y in DATA]


@pytest.fixture(autouse=True)
def _few_examples_and_any_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice no longer hangs on the time that this machine happens to take."""
    monkeypatch.setattr(ways, "WORTH_IT", 1)
    monkeypatch.setattr(ways, "FASTER", float("inf"))
    monkeypatch.setattr(ways, "AS_FAST", float("inf"))


class Network(nn.Module):
    """Convolutions with and without BatchNorm, a residual sum, and a smooth activation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.b, self.norm_b = nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4)
        self.c = nn.Conv2d(4, 4, 2, stride=2)
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_a(self.a(x)).tanh()
        x = x + self.norm_b(self.b(x)).tanh()
        return self.last(self.c(x).tanh().mean((2, 3)))


class Leaking(Network):
    """Whose first convolution's output is used beside its BatchNorm: not to be folded."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.last((self.norm_a(y).tanh() + y).mean((2, 3)))


class Viewing(Network):
    """Which can't run channels last."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(len(x), -1).view(len(x), 2, 6, 6)
        return self.last(self.norm_a(self.a(x)).tanh().mean((2, 3)))


class Choosy(Network):
    """Which takes nothing but plain tensors."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if type(y) is not Tensor:
            raise TypeError
        return self.last(self.norm_a(y).tanh().mean((2, 3)))


class Turning(Network):
    """Which goes another way once it is told to."""

    turned = False

    def forward(self, x: Tensor) -> Tensor:
        y = self.c(nn.functional.pad(x.repeat(1, 2, 1, 1), [1] * 4)) if self.turned else self.a(x)
        return self.last(self.norm_a(y).tanh().mean((2, 3)))


class Flagged(Network):
    """In which flagged examples have the convolution's output read beside its BatchNorm."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = self.norm_a(y).tanh()
        flagged = x[:, 0, 0, 0] > 2
        if flagged.any():
            z = z + flagged[:, None, None, None] * self.b(y).tanh()
        return self.last(z.mean((2, 3)))


class FlaggedWithoutWeights(Network):
    """In which they are read by nothing that has parameters, so that nobody looks for them."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = self.norm_a(y).tanh()
        flagged = x[:, 0, 0, 0] > 2
        if flagged.any():
            z = z + flagged[:, None, None, None] * y.sin()
        return self.last(z.mean((2, 3)))


class Forked(Network):
    """Whose BatchNorm follows one convolution or the other, by the images' size."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x) if x.shape[2] == 6 else self.b(x.repeat(1, 2, 1, 1))
        return self.last(self.norm_a(y).tanh().mean((2, 3)))


class Mapped(Network):
    """Which looks at one example at a time by torch.vmap."""

    def forward(self, x: Tensor) -> Tensor:
        def single(x: Tensor) -> Tensor:
            return self.norm_a(self.a(x[None])).tanh().mean((2, 3))[0]

        return self.last(torch.vmap(single)(x))


class Attending(nn.Module):
    """Attention among patches, written out and PyTorch's."""

    def __init__(self, patches: nn.Module) -> None:
        super().__init__()
        self.patches = patches
        self.qkv, self.last = nn.Linear(8, 24), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).mT
        q, k, v = self.qkv(tokens).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind()
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.last(((q @ k.mT).softmax(-1) @ y).mean((1, 2)))


def build(kind: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind().double()
    for i, (name, t) in enumerate([*model.named_parameters(), *model.named_buffers()]):
        if t.is_floating_point():
            noise = torch.rand(t.shape, generator=seeded(i), dtype=f64)
            t.data += noise if name.endswith("var") else 0.2 * noise - 0.1
    return model


def test_products_by_scale_and_shift_too_agree_with_differences() -> None:
    model = build(Network)
    risk = EmpiricalRisk(model, "cross_entropy", DATA)
    V = torch.randn(risk.size, 3, generator=seeded(2), dtype=f64)
    H = hessian(risk)
    HV = H @ V
    assert H.way.folding.folded == 2
    assert H.way.channels_last
    assert H.method == "double backward, own convolutions, 2 BatchNorms folded, channels last"
    model.eval()
    expected = hessian_by_differences(
        lambda: nn.functional.cross_entropy(model(X), Y), risk.leaves, V
    )
    assert float((HV - expected).norm() / expected.norm()) < 1e-8


@pytest.mark.parametrize("operator", [hessian, ggn, functional_hessian])
@pytest.mark.parametrize("params", ["", "norm_a.*", "a.*", "last.*"])
def test_all_operators_agree_with_plain_ones(operator: Any, params: str) -> None:
    risk = EmpiricalRisk(build(Network), "cross_entropy", DATA, params=params or ())
    fast, plain = operator(risk), operator(risk)
    plain.way = ways.PLAIN
    v = torch.randn(risk.size, generator=seeded(2), dtype=f64)
    expected = plain @ v
    assert plain.method == "double backward"
    torch.testing.assert_close(fast @ v, expected, rtol=1e-10, atol=1e-12)
    with fast.linearized() as kept:
        torch.testing.assert_close(kept @ v, expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(kept @ v, expected, rtol=1e-10, atol=1e-12)
    assert fast.method.endswith("folded, channels last, graph kept")
    pieces = sum(term @ v for term in fast.terms)
    torch.testing.assert_close(pieces, expected, rtol=1e-10, atol=1e-12)


def check_against_plain(model: nn.Module) -> str:
    H, plain = (hessian(model, "cross_entropy", DATA) for _ in range(2))
    plain.way = ways.PLAIN
    v = torch.randn(H.size, generator=seeded(2), dtype=f64)
    expected = plain @ v
    torch.testing.assert_close(H @ v, expected, rtol=1e-10, atol=1e-12)
    with H.linearized() as kept:
        torch.testing.assert_close(kept @ v, expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(kept @ v, expected, rtol=1e-10, atol=1e-12)
    return H.method


def test_an_output_that_is_used_twice_is_not_folded() -> None:
    method = check_against_plain(build(Leaking))
    assert method == "double backward, own convolutions, channels last, graph kept"


def test_an_output_that_later_examples_read_twice_is_not_folded() -> None:
    X_flagged = torch.cat([X.clamp(max=1)] * 8)
    X_flagged[-3:, 0, 0, 0] = 3
    data = (X_flagged, torch.cat([Y] * 8))
    H, plain = (hessian(build(Flagged), "cross_entropy", data, plain=p) for p in (False, True))
    v = torch.randn(H.size, generator=seeded(2), dtype=f64)
    torch.testing.assert_close(H @ v, plain @ v, rtol=1e-10, atol=1e-12)
    assert "own convolutions" in H.method
    assert "folded" not in H.method


def test_a_rare_branch_that_was_not_seen_is_noticed_as_it_is_taken() -> None:
    X_flagged = torch.cat([X.clamp(max=1)] * 8)
    X_flagged[-3:, 0, 0, 0] = 3
    data = (X_flagged, torch.cat([Y] * 8))
    model = build(FlaggedWithoutWeights)
    H, plain = (hessian(model, "cross_entropy", data, plain=p) for p in (False, True))
    v = torch.randn(H.size, generator=seeded(2), dtype=f64)
    assert H.choose_way().folding.folded == 1
    torch.testing.assert_close(H @ v, plain @ v, rtol=1e-10, atol=1e-12)
    assert H.method == "double backward"


def test_a_batch_norm_behind_either_of_two_convolutions_is_not_folded() -> None:
    data = [(X, Y), (X[..., :4, :4].contiguous(), Y)]
    H, plain = (hessian(build(Forked), "cross_entropy", data, plain=p) for p in (False, True))
    v = torch.randn(H.size, generator=seeded(2), dtype=f64)
    torch.testing.assert_close(H @ v, plain @ v, rtol=1e-10, atol=1e-12)
    assert "folded" not in H.method


def test_examples_are_not_taken_apart_in_training_mode() -> None:
    model = build(Flagged)
    flagged = X.clamp(max=1)
    flagged[-1, 0, 0, 0] = 3
    H, plain = (
        hessian(model, "cross_entropy", [(flagged, Y)], mode="train", plain=p)
        for p in (False, True)
    )
    v = torch.randn(H.size, generator=seeded(2), dtype=f64)
    torch.testing.assert_close(H @ v, plain @ v, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("patches", "own"),
    [(nn.Conv2d(2, 8, 2, 2), "convolutions and softmax"), (nn.Unfold(2, stride=2), "softmax")],
)
def test_products_through_attention_agree_with_differences(patches: nn.Module, own: str) -> None:
    model = build(lambda: Attending(patches))
    risk = EmpiricalRisk(model, "cross_entropy", DATA)
    V = torch.randn(risk.size, 3, generator=seeded(2), dtype=f64)
    H = hessian(risk)
    HV = H @ V
    assert H.method.removesuffix(", channels last") == f"double backward, own {own}"
    expected = hessian_by_differences(
        lambda: nn.functional.cross_entropy(model(X), Y), risk.leaves, V
    )
    assert float((HV - expected).norm() / expected.norm()) < 1e-8


def test_a_whole_loss_of_named_tensors_has_own_softmax() -> None:
    model = build(lambda: Attending(nn.Unfold(2, stride=2)))
    H, plain = hessian(model, of_names, NAMED), hessian(model, of_names, NAMED)
    plain.way = ways.PLAIN
    v = torch.randn(H.size, generator=seeded(2), dtype=f64)
    torch.testing.assert_close(H @ v, plain @ v, rtol=1e-10, atol=1e-12)
    assert H.method == "double backward, own softmax"


def of_names(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def test_a_loss_with_a_gradient_in_it_is_left_as_it_is() -> None:
    def slope(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x = batch[0].clone().requires_grad_()
        (g,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return g.square().mean()

    model = build(lambda: Attending(nn.Conv2d(2, 8, 2, 2)))
    H = hessian(model, slope, DATA)
    assert bool((H @ torch.ones(H.size, dtype=f64)).any())
    assert H.method == "double backward"


def test_what_fails_later_is_taken_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(lambda: Attending(nn.Conv2d(2, 8, 2, 2)))
    H, plain = hessian(model, "cross_entropy", DATA), hessian(model, "cross_entropy", DATA)
    plain.way = ways.PLAIN
    assert H.choose_way() != ways.PLAIN

    def failing(*args: object) -> None:
        raise TypeError

    monkeypatch.setattr(attention, "softmax", failing)
    monkeypatch.setattr(attention, "weighted", failing)
    v = torch.randn(H.size, generator=seeded(2), dtype=f64)
    assert torch.equal(H @ v, plain @ v)
    assert H.method == "double backward"


def test_a_network_inside_of_vmap_is_left_as_it_is() -> None:
    assert check_against_plain(build(Mapped)) == "double backward, graph kept"


def test_what_needs_contiguous_tensors_keeps_them() -> None:
    method = check_against_plain(build(Viewing))
    assert method == "double backward, own convolutions, 1 BatchNorms folded, graph kept"


def test_what_takes_no_other_type_keeps_it() -> None:
    assert check_against_plain(build(Choosy)) == "double backward, graph kept"


def test_a_model_that_turns_another_way_is_taken_plainly() -> None:
    model = build(Turning)
    H = hessian(model, "cross_entropy", DATA)
    v = torch.randn(H.size, generator=seeded(2), dtype=f64)
    with H.linearized() as kept:
        kept @ v
    assert H.way.folding.folded == 1
    model.turned = True
    with H.linearized() as kept:
        found = kept @ v, kept @ v
    assert H.method == "double backward"
    plain = hessian(model, "cross_entropy", DATA)
    plain.way = ways.PLAIN
    expected = plain @ v
    assert all(torch.equal(Hv, expected) for Hv in found)


def test_a_whole_loss_is_measured_by_its_value() -> None:
    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    model = build(Network)
    H, plain = hessian(model, loss, DATA), hessian(model, "cross_entropy", DATA)
    plain.way = ways.PLAIN
    v = torch.randn(H.size, generator=seeded(2), dtype=f64)
    torch.testing.assert_close(H @ v, plain @ v, rtol=1e-10, atol=1e-12)
    assert H.method == "double backward, own convolutions, 2 BatchNorms folded"


def test_few_examples_are_not_worth_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "WORTH_IT", len(X) + 1)
    assert check_against_plain(build(Network)) == "double backward, graph kept"


@pytest.mark.parametrize(("of_all", "seen"), [(1000, 2), (2, 3), (1, 4)])
def test_ways_are_compared_on_more_of_more_examples(
    of_all: int, seen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "MEASURED", (2, 2))
    monkeypatch.setattr(ways, "OF_ALL", of_all)
    model, sizes = build(Network), []
    risk = EmpiricalRisk(model, "cross_entropy", DATA)
    assert risk.survey.examples == len(X)
    with risk.evaluating():
        of_representatives = [len(part[0]) for part in risk.representatives.parts]
        model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
        ways.fastest(risk, "hessian")
    rest = sizes[1 + len(of_representatives) :]
    assert sizes[: 1 + len(of_representatives)] == [seen, *of_representatives]
    assert set(rest) == {seen}


def test_what_is_not_faster_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "AS_FAST", 0.0)
    assert check_against_plain(build(Network)) == "double backward, graph kept"


def test_a_product_that_disagrees_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "_channels_last", lambda x: 1.001 * x)
    method = check_against_plain(build(Network))
    assert method == "double backward, own convolutions, 2 BatchNorms folded, graph kept"


@pytest.mark.parametrize(
    ("options", "largest"),
    [({}, 2), ({"micro_batch": 4}, 4), ({"params": "last.*"}, 2)],
)
def test_halves_are_taken_where_nothing_forbids_it(
    options: dict[str, Any], largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(risk_operator, "LEAST_HALF", (2, 100))
    model = build(Network)
    H = hessian(model, "cross_entropy", DATA, **options)
    whole = hessian(model, "cross_entropy", DATA, **options | {"micro_batch": None})
    whole.way = ways.PLAIN
    v = torch.randn(H.size, generator=seeded(2), dtype=f64)
    torch.testing.assert_close(H @ v, whole @ v, rtol=1e-10, atol=1e-12)
    assert H.risk.largest_part == largest
    assert whole.risk.largest_part == 4


@pytest.mark.parametrize("least", [(3, 100), (2, 10**9)])
def test_halves_of_little_are_not_taken(
    least: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(risk_operator, "LEAST_HALF", least)
    H = hessian(build(Network), "cross_entropy", DATA)
    H @ torch.ones(H.size, dtype=f64)
    assert H.risk.largest_part == 4


def test_examples_that_depend_on_each_other_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(risk_operator, "LEAST_HALF", (2, 100))
    H = hessian(build(Network), "cross_entropy", [(X, Y)], mode="train")
    H @ torch.ones(H.size, dtype=f64)
    assert H.risk.largest_part == len(X)
