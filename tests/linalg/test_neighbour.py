"""The largest eigenvalues of A by way of B near it, whatever the spectrum; or a refusal."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from curvature.linalg import LinearOperator
from curvature.linalg.neighbour import neighbour_lanczos
from tests.conftest import seeded

f64 = torch.float64
N = 60


def rotated(values: list[float], seed: int = 0) -> Tensor:
    """A symmetric matrix with these eigenvalues, and small ones for the rest."""
    noise = torch.linspace(-0.02, 0.1, N - len(values), dtype=f64)
    Q, _ = torch.linalg.qr(torch.randn(N, N, generator=seeded(seed), dtype=f64))
    return Q @ torch.diag(torch.cat([torch.tensor(values, dtype=f64), noise])) @ Q.T


def disturbed(A: Tensor, size: float, seed: int) -> Tensor:
    E = torch.randn(N, N, generator=seeded(seed), dtype=f64)
    return A + size * (E + E.T) / (8 * N) ** 0.5 * torch.linalg.eigvalsh(A).abs().max()


@dataclass(frozen=True)
class Case:
    name: str
    values: list[float]


CASES = [
    Case("decaying", [8.0, 4.0, 2.0, 1.0]),
    Case("dominant negative", [-9.0, 3.0, 1.0]),
    Case("double top", [5.0, 5.0, 4.0]),
    Case("triple top", [5.0, 5.0, 5.0, 1.0]),
    Case("one outlier", [100.0]),
]
for_each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@for_each_case
@pytest.mark.parametrize("size", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("k", [1, 3])
def test_what_converges_is_right(case: Case, size: float, k: int) -> None:
    A = rotated(case.values)
    true = torch.linalg.eigvalsh(A).flip(0)[:k]
    converged = 0
    for seed in range(4):
        B = disturbed(A, size, seed)
        found, _ = neighbour_lanczos(
            LinearOperator.from_matrix(A),
            LinearOperator.from_matrix(B),
            generator=seeded(seed),
            k=k,
        )
        if found[0].converged:
            converged += 1
            # closer ones than rtol aren't told apart
            assert [each.value for each in found] == pytest.approx(true.tolist(), rel=1e-3)
    assert converged >= 3 or k > 1


def test_of_a_cluster_one_is_found() -> None:
    A = rotated([5.0, 4.99, 4.9, 4.8, 4.7])
    for seed in range(4):
        B = disturbed(A, 0.1, seed)
        found, _ = neighbour_lanczos(
            LinearOperator.from_matrix(A), LinearOperator.from_matrix(B), generator=seeded(seed)
        )
        assert 4.7 * 0.999 <= found[0].value <= 5 + 1e-9
        assert found[0].residual < 0.5


def test_a_near_operator_saves_products() -> None:
    A = rotated([8.0, 4.0, 2.0, 1.0])
    found, products = neighbour_lanczos(
        LinearOperator.from_matrix(A),
        LinearOperator.from_matrix(disturbed(A, 0.02, 1)),
        generator=seeded(0),
    )
    assert found[0].products <= 2 < products
    v = found[0].vector
    assert float((A @ v - found[0].value * v).norm()) == pytest.approx(found[0].residual, rel=1e-6)
    assert found[0].confidence == 0


def test_two_directions_in_the_wrong_order_are_both_tried() -> None:
    A, B = torch.diag(torch.ones(N, dtype=f64) / 9), torch.diag(torch.ones(N, dtype=f64) / 9)
    A[0, 0], A[1, 1] = 5.0, 5.5
    B[0, 0], B[1, 1] = 5.5, 5.0
    found, _ = neighbour_lanczos(
        LinearOperator.from_matrix(A), LinearOperator.from_matrix(B), generator=seeded(0)
    )
    assert found[0].value == pytest.approx(5.5)


def test_an_operator_of_another_matrix_is_no_help_and_says_so() -> None:
    A, B = rotated([5.0, 4.9, 4.8, 4.7, 4.6, 4.5], seed=1), rotated([5.0, 3.0], seed=2)
    found, _ = neighbour_lanczos(
        LinearOperator.from_matrix(A),
        LinearOperator.from_matrix(B),
        generator=seeded(0),
        max_products=4,
    )
    assert not found[0].converged


def test_negative_everywhere_is_left_to_others() -> None:
    A = LinearOperator.from_matrix(-torch.eye(N, dtype=f64))
    assert not neighbour_lanczos(A, A, generator=seeded(0))[0][0].converged
