"""A network is known to be smooth by its operations, and only where each of them is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curvature import models
from curvature.empirical_risk import EmpiricalRisk, kinks
from curvature.empirical_risk.kinks import has_kinks
from tests.conftest import seeded
from tests.corpus.architectures import ARCHITECTURES
from tests.corpus.case import Case, labels, randn
from tests.corpus.modules import Wrap

X, Y = randn(7, 4).float(), labels(7)
NOWHERE = torch.tensor(2.0)  # no buffer of a model


def risk_of(between: Callable[[Tensor], Tensor], **options: Any) -> EmpiricalRisk:
    """Two linear layers, and what stands between them."""
    torch.manual_seed(0)
    parts = {"a": nn.Linear(4, 6), "b": nn.LazyLinear(3)}
    if isinstance(between, nn.Module):
        parts["between"] = between
    model = Wrap(lambda m, x: m.b(between(m.a(x))), **parts)
    model.eval()(X)
    return EmpiricalRisk(model, options.pop("loss", "cross_entropy"), [(X, Y)], **options)


def by_numbers(monkeypatch: pytest.MonkeyPatch, risk: EmpiricalRisk) -> tuple[bool, int]:
    """Whether there are kinks, and how often that was looked for in the gradient's numbers."""
    asked: list[torch.dtype] = []
    jumps = kinks._jumps

    def counted(risk: EmpiricalRisk, part: Any, dtype: torch.dtype) -> bool:
        asked.append(dtype)
        return jumps(risk, part, dtype)

    monkeypatch.setattr(kinks, "_jumps", counted)
    return has_kinks(risk, next(iter(risk.batches))), len(asked)


def gated(x: Tensor) -> Tensor:
    """A sigmoid with a detached factor and a mask of its shape alone."""
    kept = torch.arange(x.shape[1]) > 1
    return torch.where(kept, x * x.detach().sigmoid(), x.exp() / 3).masked_fill(kept, 0.5)


SMOOTH: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": nn.Tanh(),
    "GELU": nn.GELU(),
    "SiLU": nn.SiLU(),
    "LayerNorm": nn.LayerNorm(6),
    "BatchNorm": nn.BatchNorm1d(6),
    "GroupNorm": nn.GroupNorm(2, 6),
    "dropout that is off": nn.Dropout(0.5),
    "softmax": nn.Softmax(1),
    "a cube": lambda x: x**3,
    "in place": lambda x: x.mul_(2).tanh_(),
    "rectified constants": lambda x: x * X.new_full((6,), 2.0).relu(),
    "constants": gated,
}


@pytest.mark.parametrize("between", SMOOTH.values(), ids=SMOOTH)
def test_smooth_operations_suffice(
    monkeypatch: pytest.MonkeyPatch, between: Callable[[Tensor], Tensor]
) -> None:
    assert by_numbers(monkeypatch, risk_of(between)) == (False, 0)


@pytest.mark.parametrize(
    "options",
    [{"loss": nn.CrossEntropyLoss(label_smoothing=0.1)}, {"params": "b.*"}, {"mode": "train"}],
    ids=str,
)
def test_they_suffice_with_options(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    assert by_numbers(monkeypatch, risk_of(nn.BatchNorm1d(6), **options)) == (False, 0)


KNOWN = (
    "attention",
    "attention, causal",
    "MultiheadAttention",
    "Embedding with padding_idx",
    "average pool",
    "transposed",
    "checkpoint",
)


@pytest.mark.parametrize(
    "case", [case for case in ARCHITECTURES if case.name in KNOWN], ids=lambda case: case.name
)
def test_they_suffice_in_anyone_s_model(monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    risk = EmpiricalRisk(case.build(), case.loss, case.data, **case.options)
    assert by_numbers(monkeypatch, risk) == (False, 0)


def test_a_vit_costs_one_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = "vit_study:width=8,depth=2,mlp=16"
    model = models.build(spec, input_shape=(3, 16, 16), classes=3, generator=seeded(0))
    batch = (torch.randn(4, 3, 16, 16, generator=seeded(1)), labels(4))
    before = [p.detach().clone() for p in model.parameters()]
    assert by_numbers(monkeypatch, EmpiricalRisk(model, "cross_entropy", [batch])) == (False, 0)
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), before, strict=True))
    assert all(p.grad is None for p in model.parameters())


class SignBackward(torch.autograd.Function):
    """x², with a gradient that jumps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0].sign()


class Unseen(torch.autograd.Function):
    """|x| by NumPy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        a = x.detach().numpy()
        ctx.signs = np.sign(a)
        return torch.from_numpy(np.abs(a))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * torch.from_numpy(ctx.signs)


def branches(read: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    """Each feature doubled where ``read`` gives a positive number of its first example."""

    def between(x: Tensor) -> Tensor:
        return torch.stack([2 * c if read(c[0]) > 0 else c for c in x.unbind(1)], 1)

    return between


def straight_through(x: Tensor) -> Tensor:
    return (x + ((4 * x).round() / 4 - x).detach()).tanh()


def hooked(x: Tensor) -> Tensor:
    y = x.tanh()
    if y.requires_grad:
        y.register_hook(lambda g: g + torch.from_numpy(np.abs(x.detach().numpy())))
    return y


KINKED: dict[str, Callable[[Tensor], Tensor]] = {
    "ReLU": F.relu,
    "LeakyReLU": nn.LeakyReLU(),
    "max-pool": lambda x: F.max_pool1d(x, 2),
    "abs": Tensor.abs,
    "abs by square and root": lambda x: (x * x).sqrt(),
    "abs by a power": lambda x: (x * x) ** 0.5,
    "clamp": lambda x: x.clamp(-0.1, 0.1),
    "hard sigmoid": F.hardsigmoid,
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0.0),
    "a mask of floats": lambda x: x * (x > 0).to(x.dtype),
    "rounded to an integer": lambda x: x * (8 * x).long(),
    "argmax as index": lambda x: x.gather(1, x.argmax(1, keepdim=True)).expand(-1, 6) * x,
    "sorted": lambda x: x.sort(1).values,
    "straight through": straight_through,
    "sign in the backward": SignBackward.apply,
    "NumPy": Unseen.apply,
    "branch by bool": branches(lambda c: c),
    "branch by item": branches(Tensor.item),
    "branch by tolist": branches(Tensor.tolist),
    "branch by NumPy": branches(lambda c: c.detach().numpy()),
    "branch by array": branches(lambda c: np.asarray(c.detach())),
}


@pytest.mark.parametrize("between", KINKED.values(), ids=KINKED)
def test_kinks_are_still_looked_for(
    monkeypatch: pytest.MonkeyPatch, between: Callable[[Tensor], Tensor]
) -> None:
    assert by_numbers(monkeypatch, risk_of(between)) == (True, 1)


UNKNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": F.softplus,
    "a quotient": lambda x: x / (1 + x * x),
    "a tensor from nowhere": lambda x: x * NOWHERE,
    "empty": lambda x: x + torch.empty(6).zero_(),
    "a gradient": lambda x: torch.autograd.grad(x.sin().sum(), x, create_graph=True)[0],
    "NumPy in a hook": hooked,
    "failing under a mode": lambda x: x + _failing_under_a_mode(),
}


def _failing_under_a_mode() -> float:
    if torch._C._len_torch_dispatch_stack():
        raise ValueError("no modes")
    return 0.0


@pytest.mark.parametrize("between", UNKNOWN.values(), ids=UNKNOWN)
def test_what_is_not_known_to_be_smooth_is_measured(
    monkeypatch: pytest.MonkeyPatch, between: Callable[[Tensor], Tensor]
) -> None:
    assert by_numbers(monkeypatch, risk_of(between)) == (False, 1)


def test_a_narrow_norm_without_eps_is_a_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    risk = risk_of(lambda x: F.layer_norm(x.view(-1, 3, 2), (2,), eps=0.0).flatten(1))
    assert by_numbers(monkeypatch, risk)[1] == 1


def test_a_loss_with_a_kink_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    risk = risk_of(nn.Tanh(), loss=lambda f, y: (f[:, 0] - f[:, 1]).abs())
    assert by_numbers(monkeypatch, risk) == (True, 1)


def test_inputs_without_a_storage_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Wrap(lambda m, x: m.a(x.to_dense()).tanh(), a=nn.Linear(4, 3))
    risk = EmpiricalRisk(model, "cross_entropy", [(X.to_sparse(), Y)])
    assert by_numbers(monkeypatch, risk) == (False, 1)
