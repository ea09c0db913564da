"""Kept graphs: the same products, within a memory budget, and freed whatever happens."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from curvature.derivatives.cost import Saved
from curvature.measures.eigmax import eigmax
from curvature.operators import functional_hessian, ggn, hessian
from curvature.operators.kinds import linearized
from tests.conftest import seeded
from tests.corpus.case import VECTORS, Y, f64

ALIVE: list[weakref.ref[Any]] = []
DATA = [(VECTORS[:6] + i, Y[:6]) for i in range(3)]  # of one size: the budget is told by sizes
PARTS = len(DATA)


class Token:
    """Lives as long as the graph node that holds it."""


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.token = Token()
        ALIVE.append(weakref.ref(ctx.token))
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * g


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 24), nn.Linear(24, 3)
        self.calls = 0
        for i, p in enumerate(self.parameters()):
            p.data.normal_(generator=seeded(i))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.last(Square.apply(torch.tanh(self.first(x))))


def network() -> Network:
    return Network().double()


def alive() -> int:
    gc.collect()
    return sum(ref() is not None for ref in ALIVE)


@pytest.fixture(autouse=True)
def _none_alive() -> None:
    ALIVE.clear()


@pytest.mark.parametrize("operator", [hessian, ggn, functional_hessian])
@pytest.mark.parametrize("kept", [0, 1, 2, PARTS])
def test_products_are_the_same_bit_for_bit(operator: Any, kept: int) -> None:
    model = network()
    A = operator(model, "cross_entropy", DATA)
    V = torch.randn(A.size, 3, generator=seeded(1), dtype=f64)
    expected = A @ V
    A.memory = _budget(A, kept)
    with A.linearized() as fast:
        model.calls = 0
        assert torch.equal(fast @ V, expected)
        assert model.calls == PARTS + 2 * (PARTS - kept)
    assert ("graph kept" in A.method) == (kept > 0)
    assert ("micro-batches" in A.method) == (0 < kept < PARTS)
    assert torch.equal(A @ V, expected)
    assert A.method == "double backward"


def _budget(A: Any, kept: int) -> int:
    """Bytes that hold the graphs of so many batches and half of the next one's."""
    saved = Saved(A.risk.leaves)
    sizes, graphs = [0], []
    with A.risk.evaluating():
        for part in A.risk.all_parts():
            with saved.counting():
                graphs.append(linearized(A.kind, A.risk, part))
            sizes.append(saved.bytes)
    sizes.append(2 * sizes[-1])
    return (sizes[kept] + sizes[kept + 1]) // 2


def test_graphs_live_as_long_as_the_block() -> None:
    H = hessian(network(), "cross_entropy", DATA)
    with H.linearized() as fast:
        fast @ torch.ones(H.size, dtype=f64)
        assert alive() == PARTS
    assert alive() == 0
    with pytest.raises(TypeError), H.linearized() as fast:
        fast @ torch.ones(H.size, dtype=f64) @ "a mistake of the caller's"
    assert alive() == 0


def test_changed_weights_and_statistics_are_noticed() -> None:
    model = network()
    model.register_buffer("running_mean", torch.ones(2))
    H = hessian(model, "cross_entropy", DATA)
    v = torch.ones(H.size, dtype=f64)
    for changed in (model.first.weight, model.running_mean):
        with H.linearized() as fast:
            fast @ v
            with torch.no_grad():
                changed.mul_(2)
            with pytest.raises(RuntimeError, match="Weights or running statistics were changed"):
                fast @ v


def test_the_weight_decay_is_counted_once() -> None:
    H = hessian(network(), "cross_entropy", DATA, weight_decay=0.5)
    v = torch.randn(H.size, generator=seeded(1), dtype=f64)
    with H.linearized() as fast:
        assert torch.equal(fast @ v, H @ v)


def test_the_largest_eigenvalue_keeps_its_graphs() -> None:
    model = network()
    H = hessian(model, "cross_entropy", DATA)
    H.risk.survey  # noqa: B018 (a pass of its own)
    model.calls = 0
    found = eigmax(H)
    assert model.calls == PARTS
    matrix = H @ torch.eye(H.size, dtype=f64)
    assert found.value == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-3)
    assert alive() == 0


def test_parameters_are_no_saved_bytes_and_activations_are() -> None:
    layer = nn.Linear(100, 50)
    x = torch.ones(7, 100, requires_grad=True)
    saved = Saved(list(layer.parameters()))
    with saved.counting():
        kept = F.relu(layer(x))
    assert saved.bytes == 4 * (x.numel() + kept.numel())
    saved.clear()
    assert saved.bytes == 0
