"""λ_max, the largest ones and the smallest of a network, whichever way and with what memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from curvature.linalg import LinearOperator
from curvature.measures.eigmax import eigenvalues, eigmax, eigmin
from curvature.measures.plan import plan
from curvature.operators import RiskOperator, hessian
from tests.conftest import seeded
from tests.corpus.case import VECTORS, Y, f64, uneven


def operator(memory: float | None = None) -> RiskOperator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return hessian(model, "cross_entropy", uneven(VECTORS, Y), memory=memory)


@pytest.fixture(scope="module")
def spectrum() -> Tensor:
    H = operator()
    return torch.linalg.eigvalsh(H @ torch.eye(H.size, dtype=f64)).flip(0)


@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.parametrize("method", ["lanczos", "power"])
def test_the_largest_eigenvalue(spectrum: Tensor, method: Any, memory: float | None) -> None:
    H = operator(memory)
    found = eigmax(H, method=method, generator=seeded(1))
    assert found.value == pytest.approx(float(spectrum[0]), rel=1e-3)
    v = found.vector
    residual = float((H @ v - found.value * v).norm())
    assert residual == pytest.approx(found.residual, rel=0.1, abs=1e-9)


def test_what_was_kept_is_told() -> None:
    H, poor = operator(), operator(memory=0)
    eigmax(H)
    eigmax(poor)
    assert H.method == "double backward, graph kept"
    assert poor.method == "double backward"


def test_the_largest_three_and_the_smallest(spectrum: Tensor) -> None:
    H = operator()
    found = [each.value for each in eigenvalues(H, 3, rtol=1e-6)]
    assert found == pytest.approx(spectrum[:3].tolist(), rel=1e-5)
    assert eigmin(H, rtol=1e-6).value == pytest.approx(float(spectrum[-1]), rel=1e-5)
    assert spectrum[-1] < 0


def test_any_operator_will_do() -> None:
    A = LinearOperator.from_matrix(torch.diag(torch.tensor([3.0, -5.0, 1.0], dtype=f64)))
    assert eigmax(A).value == pytest.approx(3)
    assert eigmin(A).value == pytest.approx(-5)


def test_kept_graphs_are_counted_in_the_plan() -> None:
    risk = operator().risk
    sizes = [
        plan(RiskOperator(risk, "hessian", memory=m), trace=False, eigenvalues=k).memory_bytes
        for k, m in ((0, None), (1, 0), (1, None))
    ]
    assert sizes == sorted(sizes)
    assert sizes[2] > sizes[1]


def diagonal(*top: float) -> LinearOperator:
    d = torch.cat([torch.tensor(top), torch.linspace(-0.1, 1.0, 500)])
    return LinearOperator(lambda v: d * v, len(d))


@pytest.mark.parametrize("overtaking", [8.2, 9.0, 14.0])
def test_from_an_old_eigenvector_one_that_has_become_larger_is_found(overtaking: float) -> None:
    old = eigmax(diagonal(8.0, 5.0, 3.0), generator=seeded(0)).vector
    for seed in range(5):
        found = eigmax(diagonal(8.0, overtaking, 3.0), start=old, rtol=0.01, generator=seeded(seed))
        assert found.converged
        assert found.value == pytest.approx(overtaking, rel=0.01)


def test_an_old_eigenvector_is_worth_products() -> None:
    """A gap that takes many: with few, the start makes the difference."""
    A = diagonal(*torch.linspace(5, 8, 7).tolist())
    start = eigmax(A, generator=seeded(0)).vector
    few: dict[str, Any] = {"max_products": 4, "generator": seeded(1)}
    assert eigmax(A, start=start, **few).value == pytest.approx(8.0, rel=1e-3)
    assert eigmax(A, **few).value < 7.9


def test_the_power_iteration_takes_no_start() -> None:
    with pytest.raises(ValueError, match=r"`start` is taken by `method=\"lanczos\"`"):
        eigmax(diagonal(2.0), method="power", start=torch.ones(501))
