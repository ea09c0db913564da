"""A symmetric linear operator known only by its products with vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from curvature.display import html_table

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator as ScipyOperator

_CHUNK = 1 << 20  # so that a float64 copy of a long vector is never whole in memory


class LinearOperator:
    """A symmetric real n×n matrix A, given by v ↦ Av, or as the sum A = Σ_b A_b of its ``terms``.

    ``A @ v`` takes a vector (n,) or a matrix (n, k) of the operator's dtype and device.
    """

    def __init__(
        self,
        matvec: Callable[[Tensor], Tensor] | None,
        size: int,
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        terms: Sequence[LinearOperator] = (),
    ) -> None:
        if matvec is None and not terms:
            raise ValueError("An operator needs a `matvec` or `terms`.")
        self._matvec = matvec or self._sum_over_terms
        self.size = size
        self.dtype = dtype
        self.device = torch.device(device)
        self.terms = terms
        # other sequences make their terms as they are gone over, so they are not looked at here
        sizes = [term.size for term in terms] if isinstance(terms, (tuple, list)) else []
        if size < 1 or any(other != size for other in sizes):
            raise ValueError(
                f"Expected a positive `size` that all terms share, got {size} and {sizes}."
            )

    @classmethod
    def from_matrix(cls, *terms: Tensor) -> LinearOperator:
        """The operator of a symmetric matrix, or of the sum of several."""
        for matrix in terms:
            if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
                raise ValueError(f"Expected a square matrix, got shape {tuple(matrix.shape)}.")
            asymmetry = (matrix - matrix.mT).abs().max()
            if not asymmetry <= 1e-5 * matrix.abs().max():
                raise ValueError(
                    f"The matrix isn't symmetric: A and Aᵀ differ by {asymmetry.item():.3g}. Take "
                    "(A + Aᵀ) / 2 if that is what you mean."
                )
        if not terms:
            raise ValueError("Expected a matrix, or several to be summed.")
        parts = [
            cls(matrix.mv, len(matrix), dtype=matrix.dtype, device=matrix.device)
            for matrix in terms
        ]
        if len(parts) == 1:
            return parts[0]
        return cls(None, parts[0].size, dtype=parts[0].dtype, device=parts[0].device, terms=parts)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n)."""
        return (self.size, self.size)

    def __matmul__(self, v: Tensor) -> Tensor:
        if not isinstance(v, Tensor):
            raise TypeError(
                f"Expected a tensor, got {type(v).__name__}; for NumPy arrays use `to_scipy()`."
            )
        if v.shape[:1] != (self.size,) or v.ndim > 2:
            raise ValueError(f"Expected {self.size} rows, got shape {tuple(v.shape)}.")
        if v.ndim == 1:
            return self._matvec(v)
        return torch.stack([self._matvec(column) for column in v.unbind(1)], dim=1)

    def __repr__(self) -> str:
        terms = f", {len(self.terms)} terms" if self.terms else ""
        return f"{type(self).__name__}({self.size} × {self.size}{terms}, {self.dtype})"

    def _repr_html_(self) -> str:
        about = {"matrix": f"{self.size:,} × {self.size:,}", "terms": f"{len(self.terms):,}"}
        where = {"dtype": str(self.dtype).removeprefix("torch."), "device": str(self.device)}
        return html_table(type(self).__name__, {**about, **where})

    def to_scipy(self) -> ScipyOperator:
        """The same operator for ``scipy.sparse.linalg``: NumPy vectors in, NumPy vectors out."""
        import numpy as np
        from scipy.sparse.linalg import LinearOperator as ScipyOperator

        def matvec(v: np.ndarray) -> np.ndarray:
            x = torch.as_tensor(np.ascontiguousarray(v.reshape(-1))).to(self.device, self.dtype)
            return (self @ x).detach().cpu().numpy()

        dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        return ScipyOperator(self.shape, matvec=matvec, rmatvec=matvec, dtype=dtype)

    def _sum_over_terms(self, v: Tensor) -> Tensor:
        total = self.terms[0] @ v
        for term in self.terms[1:]:
            total = total + term @ v
        return total


def require_operator(A: object) -> None:
    """Refuse what is no operator, saying how one is made."""
    if not isinstance(A, LinearOperator):
        raise TypeError(
            f"Expected an operator, got {type(A).__name__}: pass `curvature.hessian(model, loss, "
            "data)`, or `LinearOperator.from_matrix(matrix)`."
        )


def dot(u: Tensor, v: Tensor) -> Tensor:
    """uᵀv accumulated in float64 (float32 overflows above 1.8e19); a 0-d tensor, not yet synced."""
    if u.device.type == "mps":  # has no float64
        u, v = u.cpu(), v.cpu()
    pieces = zip(torch.split(u, _CHUNK), torch.split(v, _CHUNK), strict=True)
    return torch.stack([torch.dot(a.double(), b.double()) for a, b in pieces]).sum()


def dots(Q: Tensor, v: Tensor) -> Tensor:
    """Qv accumulated in float64: float32 sums of millions are wrong in the fourth digit."""
    if v.device.type == "mps":
        Q, v = Q.cpu(), v.cpu()
    if v.dtype == torch.float64:
        return Q @ v
    total = torch.zeros(len(Q), dtype=torch.float64, device=v.device)
    chunk = max(_CHUNK // max(len(Q), 1), 1)
    for rows, piece in zip(torch.split(Q, chunk, dim=1), torch.split(v, chunk), strict=True):
        total += rows.double() @ piece.double()
    return total


def norm(v: Tensor) -> Tensor:
    """‖v‖₂ accumulated in float64; a 0-d tensor, not yet synced."""
    v = v.cpu() if v.device.type == "mps" else v
    length: Tensor = torch.linalg.vector_norm(v, dtype=torch.float64)
    return length
