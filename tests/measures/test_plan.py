"""The plan: what it tells, and that the work is made to fit in the memory that there is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from curvature.derivatives.cost import Saved
from curvature.empirical_risk import EmpiricalRisk
from curvature.measures.plan import AT_ONCE, PEAK, plan
from curvature.operators import RiskOperator, hessian
from tests.conftest import seeded
from tests.corpus.case import f64, randn

DATA = (randn(120, 6), torch.randint(5, (120,), generator=seeded(1)))


def network(*layers: nn.Module) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(*layers, nn.Linear(6, 80), nn.Tanh(), nn.Linear(80, 5)).double()


def saved(H: RiskOperator) -> float:
    """Bytes that autograd keeps for a product with all examples at once."""
    counter = Saved(H.risk.leaves)
    with counter.counting():
        H @ torch.ones(H.size, dtype=f64)
    return counter.bytes


def test_a_limit_holds_for_the_micro_batch_and_the_kept_graphs_together() -> None:
    plain = hessian(network(), "cross_entropy", DATA, batch_size=60)
    limit = saved(plain) / 2
    H = hessian(network(), "cross_entropy", DATA, batch_size=60, memory=limit)
    told = plan(H, trace=False, eigenvalues=1)
    assert told.cut_to == H.risk.largest_part < 60
    assert f"{told.cut_to} examples at a time" in str(told)
    at_once = saved(plain) / 120 * told.cut_to
    assert PEAK * at_once <= AT_ONCE * limit
    assert H.budget <= limit - 0.9 * PEAK * at_once
    v = torch.randn(H.size, generator=seeded(2), dtype=f64)
    with H.linearized() as kept:
        torch.testing.assert_close(kept @ v, plain @ v, rtol=1e-12, atol=1e-12)
        assert "graph kept of" in H.method


def test_what_fits_is_left_as_it_is() -> None:
    H = hessian(network(), "cross_entropy", DATA, batch_size=60, memory=1e9)
    told = plan(H, trace=True, eigenvalues=1)
    assert told.cut_to is None
    assert "at a time" not in str(told)
    assert (H.risk.micro_batch, H.budget) == (None, 1e9)


def test_where_the_free_memory_is_short_the_micro_batch_is_cut_unasked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    H = hessian(network(), "cross_entropy", DATA, batch_size=60)
    monkeypatch.setattr("curvature.measures.plan.free_memory", lambda device: 1e5)
    assert (plan(H, trace=True, eigenvalues=0).cut_to or 60) < 60


class Centred(nn.Module):
    """Makes the examples of a batch depend on each other."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def test_a_batch_that_cannot_be_cut_stays_whole() -> None:
    risk = EmpiricalRisk(network(Centred()), "cross_entropy", DATA, batch_size=120)
    told = plan(RiskOperator(risk, "hessian", memory=1e4), trace=False, eigenvalues=0)
    assert told.cut_to is None
    assert risk.micro_batch is None


def test_the_line_says_sizes_time_memory_and_passes() -> None:
    H = hessian(network(), "cross_entropy", DATA, batch_size=60)
    told = str(plan(H, trace=True, eigenvalues=1, by_parts=False))
    assert "965 parameters, 120 examples in 2 batches" in told
    assert "of memory" in told
    assert "eigenvalues about 12 products (" in told
    assert "trace at least 8 passes (" in told
