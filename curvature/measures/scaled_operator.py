"""diag(w) A diag(w), whose trace Σ_i w_i² A_ii no rescaling of a layer before BatchNorm changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from curvature.linalg import LinearOperator
from curvature.operators import RiskOperator


def scaled_by_weights(A: LinearOperator) -> LinearOperator:
    """A as seen by relative changes of the weights; a term for each of A's."""
    if not isinstance(A, RiskOperator):
        raise ValueError(
            "`scale_invariant` needs the weights, so an operator made by `curvature.hessian`, "
            "`ggn` or `functional_hessian`."
        )
    w = A.risk.flatten([p.detach() for p in A.risk.leaves])
    return _scaled(A, w, _Terms(A, w))


def _scaled(A: LinearOperator, w: Tensor, terms: Sequence[LinearOperator] = ()) -> LinearOperator:
    def matvec(v: Tensor) -> Tensor:
        return w * (A @ (w * v))

    return LinearOperator(matvec, A.size, dtype=A.dtype, device=A.device, terms=terms)


class _Terms(Sequence[LinearOperator]):
    """Made as they are gone over, as A's own are."""

    def __init__(self, A: RiskOperator, w: Tensor) -> None:
        self._A = A
        self._w = w

    def __len__(self) -> int:
        return len(self._A.terms)

    def __iter__(self) -> Iterator[LinearOperator]:
        return (_scaled(term, self._w) for term in self._A.terms)

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]
