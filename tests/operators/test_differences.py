"""Products by differences of the gradient: right for smooth networks, refused for others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

import curvature
from curvature import models
from curvature.empirical_risk import EmpiricalRisk
from curvature.empirical_risk.kinks import has_kinks
from tests.conftest import seeded
from tests.corpus.case import f64, labels, randn
from tests.oracles import hessian_by_differences

X, Y = randn(13, 4), labels(13)
DATA = [(X[:5], Y[:5]), (X[5:10], Y[5:10]), (X[10:], Y[10:])]


class Once(torch.autograd.Function):
    """tanh without a second derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * (1 - x.tanh() ** 2)


class OnceTanh(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Once.apply(x)


class Prototypes(nn.Module):
    """Distances to learnt points; torch.cdist has no double backward."""

    def __init__(self, composed: bool = False) -> None:
        super().__init__()
        self.layer, self.points, self.composed = (
            nn.Linear(4, 5),
            nn.Parameter(randn(3, 5)),
            composed,
        )

    def forward(self, x: Tensor) -> Tensor:
        z = self.layer(x)
        if self.composed:
            return -((z[:, None] - self.points) ** 2).sum(-1).sqrt()
        return -torch.cdist(z, self.points)


def net(activation: nn.Module, width: int = 6) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(width, 3))


# A network without a second derivative, and the same one with it.
TWINS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "a once differentiable function": (lambda: net(OnceTanh()), lambda: net(nn.Tanh())),
    "cdist": (Prototypes, lambda: Prototypes(composed=True)),
}


def twins(name: str) -> tuple[nn.Module, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        a, b = (make().double() for make in TWINS[name])
    b.load_state_dict(a.state_dict())
    return a, b


def dense(model: nn.Module) -> Tensor:
    """By jacfwd(grad), which none of ours uses."""
    params = dict(model.named_parameters())
    sizes = [p.numel() for p in params.values()]

    def loss(w: Tensor) -> Tensor:
        pieces = zip(params.items(), w.split(sizes), strict=True)
        given = {name: piece.view_as(p) for (name, p), piece in pieces}
        return F.cross_entropy(torch.func.functional_call(model, given, (X,)), Y)

    w = torch.cat([p.detach().reshape(-1) for p in params.values()])
    return torch.func.jacfwd(torch.func.grad(loss))(w)


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("dtype", [torch.float32, f64], ids=str)
def test_products_agree_with_the_dense_hessian_within_their_error(
    name: str, dtype: torch.dtype
) -> None:
    without, smooth = twins(name)
    D = curvature.hessian(without, "cross_entropy", DATA, dtype=dtype, differences=True)
    H = dense(smooth)
    found = torch.stack([D @ e for e in torch.eye(D.size, dtype=dtype)], 1).double()
    worst = float((found - H).norm(dim=0).max())
    error = D.differences.error
    assert worst <= 3 * error * float(torch.linalg.matrix_norm(H, 2))
    assert error <= (2e-3 if dtype == torch.float32 else 1e-6)
    assert curvature.eigmax(D).value == pytest.approx(
        float(torch.linalg.eigvalsh(H)[-1]), rel=1e-3 + error
    )


@pytest.mark.parametrize("name", TWINS)
def test_the_trace_comes_from_probes_alone(name: str) -> None:
    without, smooth = twins(name)
    D = curvature.hessian(without, "cross_entropy", DATA, differences=True, weight_decay=0.1)
    trace = curvature.trace(D, rtol=0.05, max_passes=300)
    assert trace.method == "hutchinson"
    expected = float(dense(smooth).trace()) + 0.1 * D.size
    assert abs(trace.value - expected) <= 4 * trace.standard_error
    with pytest.raises(ValueError, match="its products are differences of the gradient"):
        curvature.trace(D, method="split")


def test_without_asking_the_operation_is_named_and_the_way_out() -> None:
    with pytest.raises(RuntimeError, match=r"`Once` has no second derivative .*differences=True"):
        curvature.hessian(net(OnceTanh()).double(), "cross_entropy", DATA)


def test_a_whole_loss_and_chosen_parameters() -> None:
    without, smooth = twins("a once differentiable function")

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    D = curvature.hessian(without, loss, DATA, params="0.*", differences=True)
    v = torch.randn(D.size, 1, generator=seeded(1), dtype=f64)
    params = list(smooth[0].parameters())
    expected = hessian_by_differences(lambda: F.cross_entropy(smooth(X), Y), params, v)
    torch.testing.assert_close(D @ v[:, 0], expected[:, 0], rtol=1e-5, atol=1e-8)


def test_weights_are_put_back_bitwise() -> None:
    model = net(nn.GELU()).double()
    before = [p.detach().clone() for p in model.parameters()]
    D = curvature.hessian(model, "cross_entropy", DATA, differences=True)
    D @ torch.ones(D.size, dtype=f64)
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), before, strict=True))
    assert not float((D @ torch.zeros(D.size, dtype=f64)).abs().max())


SMOOTH = [nn.Tanh(), nn.GELU(), nn.SiLU(), nn.Softplus(beta=30), nn.ELU(), nn.LayerNorm(6)]
KINKED = [nn.ReLU(), nn.LeakyReLU(0.1), nn.ReLU6(), nn.Hardtanh(-0.1, 0.1), nn.Softshrink(0.1)]


@pytest.mark.parametrize("activation", SMOOTH, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("seed", range(3))
def test_smooth_networks_have_no_kinks(activation: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    risk = EmpiricalRisk(net(activation), "cross_entropy", [(X.float(), Y)])
    assert not has_kinks(risk, (X.float(), Y))


@pytest.mark.parametrize("activation", KINKED, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("seed", range(3))
def test_kinks_are_found_and_refused(activation: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    with pytest.raises(ValueError, match="The gradient jumps as the weights move"):
        curvature.hessian(net(activation), "cross_entropy", DATA, differences=True)


def test_max_pooling_is_a_kink() -> None:
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="The gradient jumps"):
        curvature.hessian(net(nn.MaxPool1d(2), 3), "cross_entropy", DATA, differences=True)


@pytest.mark.parametrize(
    ("spec", "kinked"), [("resnet20:width=4", True), ("cnn:activation=gelu", False)]
)
def test_thousands_of_small_kinks_are_found_too(spec: str, kinked: bool) -> None:
    model = models.build(spec, input_shape=(3, 16, 16), classes=3, generator=seeded(0))
    batch = (torch.randn(4, 3, 16, 16, generator=seeded(1)), labels(4))
    risk = EmpiricalRisk(model, "cross_entropy", [batch])
    assert has_kinks(risk, batch) == kinked


def test_a_model_that_knows_no_float64_is_looked_at_in_float32() -> None:
    class Single(nn.Module):
        def __init__(self, activation: nn.Module) -> None:
            super().__init__()
            self.layer, self.activation = nn.Linear(4, 16), activation
            self.register_buffer("out", torch.arange(48.0).sin().view(16, 3))

        def forward(self, x: Tensor) -> Tensor:
            if x.dtype == f64:
                raise RuntimeError("no kernel for float64")
            return self.activation(self.layer(x)) @ self.out

    batch = (X.float(), Y)
    for activation, kinked in ((nn.ReLU(), True), (nn.Tanh(), False)):
        torch.manual_seed(0)
        risk = EmpiricalRisk(Single(activation), "cross_entropy", [batch])
        assert has_kinks(risk, batch) == kinked
