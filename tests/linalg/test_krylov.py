"""The space keeps its invariants through restarts and locks, and its limit is what it says."""

import math

import numpy as np
import pytest
import torch

from curvature.linalg import LinearOperator
from curvature.linalg.krylov import Krylov
from curvature.linalg.random_vectors import random_unit
from tests.cases import case_named, symmetric
from tests.conftest import seeded

CASE = case_named("like a network's")


def grown(log_odds: float = 10.0) -> tuple[Krylov, torch.Tensor]:
    """A chain of thirteen steps with two thick restarts, not yet converged."""
    space = Krylov(CASE.operator, sign=-1, capacity=8)
    start = random_unit(space.A, seeded(3))
    space.begin(start, log_odds)
    for _ in range(13):
        if space.size == space.capacity:
            space.restart(4)
        space.step()
    return space, start


def test_rows_are_orthonormal_and_hold_the_projection() -> None:
    space, _ = grown()
    space.lock(3)
    space.begin(random_unit(space.A, seeded(1)), 10.0)
    for _ in range(7):
        if space.size == space.capacity:
            space.restart(3)
        space.step()
    Q = space.rows[: space.size]
    np.testing.assert_allclose((Q @ Q.T).numpy(), np.eye(space.size), atol=1e-13)
    np.testing.assert_allclose(space.T, -(Q @ CASE.matrix @ Q.T).numpy(), atol=1e-10)
    assert len(space.rows) <= 8
    assert space.products == 20


def test_residual_bounds_hold_beside_unconverged_locked_vectors() -> None:
    matrix = symmetric(*range(12))
    space = Krylov(LinearOperator.from_matrix(matrix), sign=1, capacity=12)
    space.begin(random_unit(space.A, seeded(1)), 10.0)
    for step in range(13):  # the last one completes the space
        if step == 4:
            space.lock(3)
            space.begin(random_unit(space.A, seeded(2)), 10.0)
        space.step()
        values, residuals, S = space.ritz()
        for i, theta in enumerate(values):
            v = space.vector(S[:, i])
            true = (matrix @ v - theta * v).norm().item()
            assert true <= residuals[i] + 1e-7
        assert (residuals.max() < 1e-6) == (step == 12)
    assert space.invariant
    assert space.size == 12


def test_limit_is_where_the_polynomial_of_the_chain_has_grown_by_the_odds() -> None:
    space, start = grown()
    eigenvalues, U = np.linalg.eigh(-CASE.matrix.numpy())
    u = torch.from_numpy(U[:, -1].copy())
    growth = abs((u @ space.next).item() / (u @ start).item())  # |φ(λ)|, as next = φ(A) start
    again, _ = grown(math.log(growth))
    assert again.limit() == pytest.approx(eigenvalues[-1], rel=1e-6)
