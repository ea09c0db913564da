"""One table of operators with known answers, for everything in tests/linalg."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from curvature.linalg import LinearOperator
from tests.conftest import seeded


@dataclass(frozen=True)
class Case:
    name: str
    terms: tuple[Tensor, ...]  # their sum is the matrix

    @property
    def operator(self) -> LinearOperator:
        return LinearOperator.from_matrix(*self.terms)

    @property
    def matrix(self) -> Tensor:
        return sum((term.double() for term in self.terms), torch.zeros(()))

    @property
    def trace(self) -> float:
        return self.matrix.trace().item()

    @property
    def eigenvalues(self) -> np.ndarray:
        """The largest first; by LAPACK, in float64."""
        return np.linalg.eigvalsh(self.matrix.numpy())[::-1]

    @property
    def rounding(self) -> float:
        """What no product in the operator's dtype can tell apart."""
        return 100 * torch.finfo(self.operator.dtype).eps * np.abs(self.eigenvalues).max()


def symmetric(*eigenvalues: float, seed: int = 0) -> Tensor:
    """A full float64 matrix with these eigenvalues and random eigenvectors."""
    n = len(eigenvalues)
    Q, _ = torch.linalg.qr(torch.randn(n, n, generator=seeded(seed), dtype=torch.float64))
    A = Q @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ Q.T
    return (A + A.T) / 2


def _random(n: int, seed: int = 0) -> Tensor:
    A = torch.randn(n, n, generator=seeded(seed), dtype=torch.float64)
    return (A + A.T) / 2


def _bulk(n: int, scale: float, seed: int = 0) -> list[float]:
    return (scale * torch.randn(n, generator=seeded(seed))).tolist()


NETWORK = [216.75, 120.0, 90.0, 70.0, 55.0, 40.0, *(8 * 0.97**i - 0.2 for i in range(244))]

CASES = [
    Case("decaying", (symmetric(8.0, 4.0, 2.0, 1.0),)),
    Case("like a network's", (symmetric(*NETWORK),)),
    Case("dominant negative", (symmetric(-9.0, 3.0, 1.0),)),  # |λ|max is not λmax
    Case("negative and clustered", (symmetric(66.4, 63.5, 61.9, -431.0, *_bulk(56, 5.0)),)),
    Case("opposite ends", (symmetric(9.0, -9.0, 1.0, 0.0),)),
    Case("repeated top", (symmetric(5.0, 5.0, 4.0),)),
    Case("repeated top, bulk", (symmetric(5.0, 5.0, 5.0, 4.0, 4.0, *_bulk(55, 0.5)),)),
    Case("nearly repeated", (symmetric(5.0, 4.9999, 4.99, *_bulk(57, 1.0)),)),
    Case("hidden top", (symmetric(10.0, *[9.0] * 99),)),
    Case("zero", (torch.zeros(6, 6, dtype=torch.float64),)),
    Case("identity", (2 * torch.eye(7, dtype=torch.float64),)),
    Case("minus identity", (-3 * torch.eye(7, dtype=torch.float64),)),
    Case("negative definite", (symmetric(-1.0, -2.0, -5.0),)),
    Case("rank one", (symmetric(7.0, *[0.0] * 19),)),
    Case("negative rank one", (symmetric(-7.0, *[0.0] * 19),)),
    Case("one by one", (torch.tensor([[4.0]], dtype=torch.float64),)),
    Case("one by one, negative", (torch.tensor([[-4.0]], dtype=torch.float64),)),
    Case("uneven terms", (0.8 * symmetric(4.0, 1.0), 0.2 * symmetric(-2.0, 1.0, seed=1))),
    Case("many terms", tuple(symmetric(*_bulk(30, 1.0, s), seed=s) for s in range(8))),
    Case("huge, float32", ((1e24 * symmetric(9.0, 5.0, *_bulk(28, 1.0))).float(),)),
    Case("tiny, float32", ((1e-20 * symmetric(9.0, 5.0, *_bulk(28, 1.0))).float(),)),
    Case("float32", (symmetric(*NETWORK[:100]).float(),)),
    Case("random", (_random(200),)),
]

Test = Callable[..., Any]
for_each_case: Callable[[Test], Test] = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


def case_named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def counted(A: LinearOperator) -> tuple[LinearOperator, list[int]]:
    """The same operator, and a list that grows by one for each product."""
    calls: list[int] = []

    def matvec(v: Tensor) -> Tensor:
        calls.append(1)
        return A @ v

    return LinearOperator(matvec, A.size, dtype=A.dtype, device=A.device), calls


def failing_at(number: int, A: LinearOperator) -> LinearOperator:
    """The same operator, but for NaN in its product of this number."""
    calls: list[int] = []

    def matvec(v: Tensor) -> Tensor:
        calls.append(1)
        return A @ v * (float("nan") if len(calls) == number else 1.0)

    return LinearOperator(matvec, A.size, dtype=A.dtype, device=A.device)
