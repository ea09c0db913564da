"""The scale-invariant trace, blocks and sampling errors against dense Hessians in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacfwd, vmap
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import curvature
from curvature import models
from curvature.derivatives.own_blocks import curved_tensors
from curvature.measures import gauss_newton_trace
from curvature.measures.functional_trace import FunctionalTrace, tensors_with_a_part
from curvature.measures.split_trace import _more
from curvature.measures.trace import trace
from curvature.operators import functional_hessian, ggn, hessian
from tests.conftest import seeded
from tests.corpus.case import f64, randn

aten = torch.ops.aten
IMAGES = randn(8, 3, 8, 8, seed=3)
X, LABELS = randn(60, 6), torch.randint(5, (60,), generator=seeded(1))


def network(activation: type[nn.Module], width: int = 8) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Linear(6, width), nn.LayerNorm(width), activation(), nn.Linear(width, 5)
        return nn.Sequential(
            *(layers if activation is nn.GELU else [layers[0], *layers[2:]])
        ).double()


def dense_diagonal(model: nn.Module, X: Tensor = X, labels: Tensor = LABELS) -> dict[str, Tensor]:
    """H_ii by forward over reverse, in the shapes of the parameters."""
    params = {name: p.detach() for name, p in model.named_parameters()}

    def loss(p: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(functional_call(model, p, (X,)), labels)

    H = jacfwd(grad(loss))(params)
    return {
        name: H[name][name].reshape(p.numel(), p.numel()).diagonal().view_as(p)
        for name, p in params.items()
    }


def dense_scaled(model: nn.Module, **data: Tensor) -> float:
    diagonal = dense_diagonal(model, **data)
    return sum(
        float((p.detach().square() * diagonal[k]).sum()) for k, p in model.named_parameters()
    )


both = pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])


@both
def test_exact_is_exact_in_every_number(activation: type[nn.Module]) -> None:
    model = network(activation)
    H = hessian(model, "cross_entropy", (X, LABELS), batch_size=25)
    found = trace(H, method="exact", scale_invariant=True)
    diagonal = {name: float(d.sum()) for name, d in dense_diagonal(model).items()}
    assert found.value == pytest.approx(sum(diagonal.values()), rel=1e-9)
    assert found.blocks == pytest.approx(diagonal, rel=1e-8, abs=1e-12)
    assert found.standard_error == 0
    assert set(found.block_errors.values()) == {0}
    assert found.scale_invariant.value == pytest.approx(dense_scaled(model), rel=1e-9)
    assert found.scale_invariant.standard_error == 0
    assert found.converged
    assert ("tr(H−G) exactly" in found.method) == (activation is nn.GELU)


@both
@pytest.mark.parametrize("method", ["split", "hutchinson"])
def test_the_scale_invariant_estimate_lies_within_its_error(
    activation: type[nn.Module], method: Any
) -> None:
    model = network(activation)
    H = hessian(model, "cross_entropy", (X, LABELS), batch_size=25)
    found = trace(H, method=method, scale_invariant=True, rtol=0.05).scale_invariant
    assert found.converged
    assert 0 < found.standard_error <= 0.05 * found.value
    assert abs(found.value - dense_scaled(model)) <= 4 * found.standard_error


def test_the_interval_of_the_scale_invariant_trace_covers_the_exact_one() -> None:
    model = network(nn.GELU)
    H = hessian(model, "cross_entropy", (X, LABELS), batch_size=10)
    exact, exact_scaled = (
        sum(float(d.sum()) for d in dense_diagonal(model).values()),
        dense_scaled(model),
    )
    inside = inside_scaled = 0
    for seed in range(40):
        found = trace(H, rtol=0.25, scale_invariant=True, generator=seeded(seed))
        low, high = found.interval()
        inside += low <= exact <= high
        low, high = found.scale_invariant.interval()
        inside_scaled += low <= exact_scaled <= high
    assert min(inside, inside_scaled) >= 0.85 * 40


def test_scaling_a_convolution_before_batch_norm_changes_only_the_plain_trace() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 3, 3, bias=False),
            nn.BatchNorm2d(3, eps=1e-14),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(48, 4),
        ).double()
    x, y = randn(20, 1, 6, 6), torch.randint(4, (20,), generator=seeded(2))
    model(x)  # statistics of the images, once

    def measured() -> Any:
        return trace(
            hessian(model.eval(), "cross_entropy", (x, y)), method="exact", scale_invariant=True
        )

    before = measured()
    with torch.no_grad():
        model[0].weight *= 10
        model[1].running_mean *= 10
        model[1].running_var *= 100
    after = measured()
    assert before.scale_invariant.value == pytest.approx(
        dense_scaled(model, X=x, labels=y), rel=1e-8
    )
    assert after.scale_invariant.value == pytest.approx(before.scale_invariant.value, rel=1e-8)
    assert after.value < 0.9 * before.value


def test_weight_decay_adds_itself_times_the_squared_norm() -> None:
    model = network(nn.ReLU)
    plain, decayed = (
        trace(
            hessian(model, "cross_entropy", (X, LABELS), weight_decay=d),
            method="exact",
            scale_invariant=True,
        )
        for d in (0.0, 0.5)
    )
    squares = sum(float(p.detach().square().sum()) for p in model.parameters())
    assert decayed.scale_invariant.value == pytest.approx(
        plain.scale_invariant.value + 0.5 * squares
    )
    assert decayed.blocks["0.weight"] == pytest.approx(plain.blocks["0.weight"] + 0.5 * 48)


def test_blocks_of_a_smooth_network_lie_within_their_errors() -> None:
    model = network(nn.GELU)
    H = hessian(model, "cross_entropy", (X, LABELS), batch_size=10)
    assert trace(H, rtol=0.1).blocks is None
    found = trace(H, rtol=0.3, blocks=True, scale_invariant=True)
    for name, diagonal in dense_diagonal(model).items():
        gap = abs(found.blocks[name] - float(diagonal.sum()))
        assert gap <= 4 * found.block_errors[name] + 1e-12, name
        assert found.block_errors[name] > 0
    assert sum(found.blocks.values()) == pytest.approx(found.value)
    scaled = found.scale_invariant
    assert abs(scaled.value - dense_scaled(model)) <= 4 * scaled.standard_error


def gauss_newton_diagonal(model: nn.Module, X: Tensor, labels: Tensor) -> dict[str, float]:
    """Each tensor's Σ_ab Λ_ab ⟨∂f_a, ∂f_b⟩, in the mean over the examples."""
    params = dict(model.named_parameters())
    sums = dict.fromkeys(params, 0.0)
    for x in X:
        (f,) = model(x[None])
        each = [torch.autograd.grad(f_a, list(params.values()), retain_graph=True) for f_a in f]
        p = f.detach().softmax(0)
        root = torch.diag(p) - torch.outer(p, p)
        for k, name in enumerate(params):
            J = torch.stack([g[k].flatten() for g in each])
            sums[name] += float((root * (J @ J.mT)).sum()) / len(X)
    return sums


@pytest.mark.parametrize("kind", [ggn, hessian])
def test_class_tokens_and_positions_of_a_vision_transformer_have_exact_blocks(kind: Any) -> None:
    model = models.build(
        "vit_study:width=4,depth=1,heads=2,mlp=2", input_shape=(1, 4, 8), classes=3
    ).double()
    with torch.no_grad():
        for k, p in enumerate(model.parameters()):
            p.copy_(0.3 * randn(*p.shape, seed=k))
    x, y = randn(7, 1, 4, 8), torch.randint(3, (7,), generator=seeded(2))
    found = trace(kind(model, "cross_entropy", (x, y), batch_size=3), method="exact")
    expected = (
        gauss_newton_diagonal(model, x, y)
        if kind is ggn
        else {name: float(d.sum()) for name, d in dense_diagonal(model, x, y).items()}
    )
    assert {"cls_token", "pos_embed"} <= set(found.blocks)
    assert found.blocks == pytest.approx(expected, rel=1e-8, abs=1e-10)
    assert found.value == pytest.approx(sum(expected.values()), rel=1e-9)
    assert found.standard_error == 0


def test_a_vision_transformer_goes_by_signs_as_a_whole() -> None:
    model = models.build(
        "vit_study:width=4,depth=1,heads=2,mlp=2", input_shape=(1, 4, 8), classes=3
    ).double()
    x, y = randn(25, 1, 4, 8), torch.randint(3, (25,), generator=seeded(2))
    found = trace(ggn(model, "cross_entropy", (x, y), batch_size=12), rtol=0.05)
    assert found.method.endswith("tr(G) by signs")
    exact = sum(gauss_newton_diagonal(model, x, y).values())
    assert abs(found.value - exact) <= 4 * found.standard_error


def test_a_parameter_in_no_layer_and_without_rows_is_told() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network(nn.ReLU)
            self.shift, self.row = nn.Parameter(randn(6)), nn.Parameter(randn(1, 6))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x * self.row[0] + self.shift)

    model = Shifted()
    G = ggn(model, "cross_entropy", (X, LABELS), batch_size=25)
    assert "8 examples at a time for shift, row" in trace(G, rtol=0.1).method
    expected = gauss_newton_diagonal(model, X, LABELS)
    assert trace(G, method="exact").blocks == pytest.approx(expected, rel=1e-9)


def test_the_examples_spread_counts_the_functional_hessian() -> None:
    x, y = randn(200, 6, seed=5), torch.randint(5, (200,), generator=seeded(6))
    model = network(nn.GELU)
    params = {name: p.detach() for name, p in model.named_parameters()}

    def own_trace(x_i: Tensor, y_i: Tensor) -> Tensor:
        def loss(p: dict[str, Tensor]) -> Tensor:
            return F.cross_entropy(functional_call(model, p, (x_i[None],)), y_i[None])

        H = jacfwd(grad(loss))(params)
        return sum(H[k][k].reshape(p.numel(), p.numel()).trace() for k, p in params.items())

    single = vmap(own_trace)(x, y)
    H = hessian(model, "cross_entropy", (x, y), batch_size=20)
    found = trace(H, rtol=1e-9, max_passes=16)
    expected = math.hypot(float(single.std()) / math.sqrt(200), found.standard_error)
    assert found.sampling_error == pytest.approx(expected, rel=0.3)


def test_only_tensors_with_a_curvature_of_their_own_are_probed() -> None:
    H = hessian(network(nn.GELU), "cross_entropy", (X, LABELS))
    assert tensors_with_a_part(H.risk, seeded(0)) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert (
        tensors_with_a_part(hessian(network(nn.ReLU), "cross_entropy", (X, LABELS)).risk, seeded(0))
        == []
    )


def test_of_small_examples_more_go_together_and_no_number_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = randn(300, 6, seed=5), torch.randint(5, (300,), generator=seeded(6))
    found, calls = [], []
    for numbers in (0, 2**20):
        monkeypatch.setattr(gauss_newton_trace, "_NUMBERS", numbers)
        model, sizes = network(nn.ReLU), []
        model.register_forward_hook(lambda m, args, f, sizes=sizes: sizes.append(len(f)))
        H = hessian(model, "cross_entropy", (x, y), batch_size=300)
        found.append(trace(H, rtol=0.02, generator=seeded(3)))
        calls.append(max(sizes))
    assert calls == [64, 300 - 64]
    assert found[0].value == pytest.approx(found[1].value, rel=1e-12)
    assert found[0].passes == found[1].passes


class Convolutions(TorchDispatchMode):
    """How many convolutions are run, forward or backward."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (aten.convolution.default, aten.convolution_backward.default)
        return func(*args, **kwargs or {})


def convolutional(depth: int, last: nn.Module | None = None) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()]
        layers += [last or nn.MaxPool2d(2), nn.Flatten(), nn.LazyLinear(5)]
        model = nn.Sequential(*layers).double().eval()
        model(IMAGES[:1])
        return model


def test_that_convolutions_are_not_curved_takes_as_many_for_each_whatever_the_depth() -> None:
    counts = []
    for depth in (4, 12):
        risk = hessian(convolutional(depth), "cross_entropy", (IMAGES, LABELS[:8])).risk
        with Convolutions() as convolutions:
            assert tensors_with_a_part(risk, seeded(0)) == []
        counts.append(convolutions.count / depth)
    assert counts[1] <= 1.2 * counts[0]


class OnBothSides(nn.Module):
    """Reads a convolution's output besides its BatchNorm, but only where a graph is recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + (y.square() if torch.is_grad_enabled() else 0)


@pytest.mark.parametrize("last", [nn.Tanh(), OnBothSides()], ids=["tanh", "read twice"])
def test_what_is_curved_above_convolutions_is_found(last: nn.Module) -> None:
    model = convolutional(3, last)
    found = tensors_with_a_part(
        hessian(model, "cross_entropy", (IMAGES, LABELS[:8])).risk, seeded(0)
    )
    curved = [name for name, _ in model.named_parameters() if not name.startswith("11.")]
    if isinstance(last, OnBothSides):
        curved.remove("9.norm.weight")
        curved.remove("9.norm.bias")
    assert found == curved


def test_a_tensor_is_curved_by_itself_or_only_with_another() -> None:
    a, b, c = (torch.randn(3, generator=seeded(s), dtype=f64).requires_grad_() for s in range(3))
    value = (a * b).sum() + c.square().sum()
    params = {"x.a": a, "x.b": b, "y.c": c}
    assert curved_tensors(value, params, generator=seeded(0), tolerance=1e-12) == ["y.c"]


def test_a_few_parameters_are_done_by_unit_vectors_and_many_are_said_to_be_sampled() -> None:
    small = hessian(
        nn.Sequential(nn.Linear(6, 5), nn.Tanh()).double(), "cross_entropy", (X, LABELS)
    )
    assert "tr(H−G) exactly" in trace(small, method="auto").method
    with torch.random.fork_rng():
        torch.manual_seed(0)
        large = nn.Sequential(nn.Linear(6, 700), nn.GELU(), nn.Linear(700, 5)).double()
    found = trace(hessian(large, "cross_entropy", (X, LABELS)), method="exact", rtol=0.5)
    assert "tr(G) exactly, tr(H−G) by differences" in found.method
    assert found.standard_error > 0


class Largest(TorchDispatchMode):
    """The most numbers that a tensor made by any operation holds."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(each, Tensor):
                self.numbers = max(self.numbers, each.numel())
        return found


@pytest.mark.parametrize(("method", "squares"), [("split", 0.1), ("exact", 1.0)])
def test_a_thousand_classes_form_no_matrix_per_example(method: Any, squares: float) -> None:
    """The root of Λ is applied, never formed; exactly, one identity holds all the unit vectors."""
    classes = 1000
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, classes))
    labels = torch.randint(classes, (8,), generator=seeded(1))
    G = ggn(model, "cross_entropy", (X[:8].float(), labels))
    with Largest() as largest:
        curvature.trace(G, method=method, max_passes=4)
    assert 8 * classes <= largest.numbers <= squares * classes**2


def test_what_has_no_weights_or_no_blocks_is_refused() -> None:
    matrix = torch.diag(torch.arange(1.0, 9.0, dtype=f64))
    A = curvature.LinearOperator.from_matrix(matrix)
    with pytest.raises(ValueError, match="needs the weights"):
        trace(A, scale_invariant=True)
    with pytest.raises(ValueError, match="no `blocks` apart"):
        trace(A, blocks=True)


def test_unit_vectors_keep_to_the_passes_that_are_allowed() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    data = [(torch.randn(8, 3, dtype=torch.float64, generator=seeded(0)), torch.arange(8) % 2)]
    H = hessian(model, "cross_entropy", data)
    assert "exactly" in trace(H, generator=seeded(0)).method
    few = trace(H, max_passes=4, rtol=1e-6, generator=seeded(0))
    assert "exactly" not in few.method
    assert few.passes < 20


def test_a_round_has_a_draw_however_little_is_missing() -> None:
    """Else two units may be gone over for ever, each time for less than a draw."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    H = functional_hessian(model, "mse", (randn(16, 3), 3 + randn(16, 2, seed=1)), batch_size=8)
    R = FunctionalTrace(H.risk, seeded(0), tensors_with_a_part(H.risk, seeded(0)))
    R.advance(40)
    assert R.draws[0].degrees() >= 32
    before = R.passes
    for _ in range(4):
        R.advance(_more(R, 0, R.passes + 1e-9))
    assert R.passes > before
