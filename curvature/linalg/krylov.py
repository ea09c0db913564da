"""The space that Lanczos's steps span, beside locked vectors (Lanczos 1950; Wu and Simon 2000)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from curvature.linalg.operator import LinearOperator, dot, dots, norm

Array = npt.NDArray[np.float64]


class Krylov:
    """Orthonormal rows, first ``locked`` Ritz vectors, then a chain: T = QAQᵀ, AQᵀ = QᵀT + E.

    The chain is Lanczos's for A compressed onto the complement of the locked rows. E is orthogonal
    to all rows; what it holds for the chain lies along ``next``, with coefficients ``link``.
    """

    def __init__(self, A: LinearOperator, *, sign: int, capacity: int) -> None:
        self.A, self.sign, self.capacity = A, sign, min(capacity, A.size)
        self.eps = torch.finfo(A.dtype).eps
        self.products = 0
        self.size = 0
        self.locked = 0
        self.T: Array = np.zeros((0, 0))
        self.locked_residuals: Array = np.zeros(0)
        self.asymmetry = 0.0  # the largest ‖Qᵀ(Aq) − (AQ)ᵀq‖ seen: 0 but for a product's rounding
        self.rows = torch.empty(min(8, self.capacity), A.size, dtype=A.dtype, device=A.device)

    @property
    def scale(self) -> float:
        """The largest |Ritz value|: a lower bound of ‖A‖₂ that soon is close to it."""
        return float(np.abs(self._values).max())

    def begin(self, start: Tensor, log_odds: float) -> None:
        """Start a chain; ``log_odds`` is −log of how small its part in an eigenvector may be."""
        q, _ = self._orthogonalized(start.to(self.A.device, self.A.dtype))
        self.next = q / norm(q).item()
        self.link: Array = np.zeros(self.size)
        self.invariant = False
        self._log_odds = log_odds
        self._log_betas = 0.0
        self._discarded: Array = np.zeros(0)

    def step(self) -> None:
        """One product: add ``next`` to the rows, find the one after it."""
        q = self._append(self.next)
        w = (self.A @ q).detach()
        w = w if self.sign > 0 else -w
        self.products += 1
        alpha = dot(q, w).item()
        if not math.isfinite(alpha):
            raise FloatingPointError(
                f"Product {self.products} with the operator isn't finite (vᵀAv = {alpha}). Look at "
                "the loss and the weights, or use float64."
            )
        w, h = self._orthogonalized(w)
        gap = float(np.linalg.norm(h[self.locked : -1] - self.link[self.locked :]))
        self.asymmetry = max(self.asymmetry, gap)
        beta = norm(w).item()
        couplings = np.append(self.link, alpha)
        couplings[: self.locked] = h[: self.locked]
        self.T = np.pad(self.T, (0, 1))
        self.T[-1, :] = self.T[:, -1] = couplings
        self._values, self._vectors = _eigh(self.T)
        self._chain_values = _eigh(self._chain)[0] if self.locked else self._values
        self.link = np.zeros(self.size)
        self.invariant = self.size == self.A.size or beta <= 16 * self.eps * self.scale
        if not self.invariant:
            self.link[-1] = beta
            self._log_betas += math.log(beta)
            self.next = w / beta

    def ritz(self) -> tuple[Array, Array, Array]:
        """Ritz values, the largest first, bounds of their residuals, and vectors as columns."""
        S = self._vectors
        hidden = self.locked_residuals**2 - np.sum(self.T[: self.locked, self.locked :] ** 2, 1)
        outside = np.sqrt(np.maximum(hidden, 0))
        residuals = outside @ np.abs(S[: self.locked]) + np.abs(self.link @ S)
        return self._values, residuals, S

    def chain_top(self) -> float:
        """The chain's largest Ritz value."""
        return float(self._chain_values[0])

    def limit(self) -> float:
        """The t at which |φ(t)| reaches exp(log_odds), where ``next`` = φ(A) start.

        Since ‖``next``‖ = 1, an eigenvalue λ beyond t has a part of at most 1/|φ(λ)| in the start
        vector, at every step (van Dorsselaer, Hochstenbach and van der Vorst 2000). A thick
        restart leaves φ(t) = Π (t − θ) / Π β: all Ritz values, discarded ones too, and all β.
        """
        theta = np.concatenate([self._chain_values, self._discarded])
        top, scale = float(theta[0]), float(np.abs(theta).max())
        if self.invariant:
            return top
        scale = max(scale, float(self.link[-1]), np.finfo(float).tiny)
        low, high = -40.0, 40.0  # log of (t − top) / scale
        for _ in range(48):
            middle = (low + high) / 2
            distances = (top - theta) + math.exp(middle) * scale
            if np.log(distances).sum() - self._log_betas < self._log_odds:
                low = middle
            else:
                high = middle
        return top + math.exp(high) * scale

    def lock(self, count: int) -> None:
        """Keep the ``count`` largest Ritz vectors of all rows and no chain."""
        values, residuals, S = self.ritz()
        self._replace_rows(0, S[:, :count])
        self.T = np.diag(values[:count])
        self.locked_residuals = residuals[:count]
        self.locked = self.size

    def restart(self, count: int) -> None:
        """Keep the ``count`` largest Ritz vectors of the chain; ``next`` goes on from them."""
        values, S = _eigh(self._chain)
        kept = S[:, :count]
        couplings = self.T[: self.locked, self.locked :] @ kept
        locked = self.T[: self.locked, : self.locked]
        self._replace_rows(self.locked, kept)
        self.link = np.append(np.zeros(self.locked), self.link[self.locked :] @ kept)
        self.T = np.block([[locked, couplings], [couplings.T, np.diag(values[:count])]])
        self._discarded = np.append(self._discarded, values[count:])

    def vector(self, s: Array) -> Tensor:
        """The unit vector with coordinates ``s`` in the rows."""
        v = self.rows[: self.size].T @ self._tensor(s)
        return v / norm(v).item()

    @property
    def _chain(self) -> Array:
        return self.T[self.locked :, self.locked :]

    def _append(self, q: Tensor) -> Tensor:
        if self.size == len(self.rows):
            more = min(len(self.rows), self.capacity - len(self.rows))
            self.rows = torch.cat([self.rows, self.rows[:more]])
        self.rows[self.size] = q
        self.size += 1
        return self.rows[self.size - 1]

    def _orthogonalized(self, w: Tensor) -> tuple[Tensor, Array]:
        """W minus its part in the rows, by classical Gram–Schmidt, twice; and that part."""
        Q = self.rows[: self.size]
        total: Array = np.zeros(self.size)
        for _ in range(2):
            h = dots(Q, w)
            w = torch.addmv(w, Q.T, h.to(w.dtype).to(w.device), alpha=-1)
            total += h.cpu().numpy()
        return w, total

    def _replace_rows(self, first: int, S: Array) -> None:
        # Vector by vector: a product of matrices would be rounded to TF32 where that is allowed.
        old = self.rows[first : first + len(S)].T
        new = [old @ self._tensor(s) for s in S.T]
        for i, row in enumerate(new, start=first):
            self.rows[i] = row
        self.size = first + len(new)

    def _tensor(self, s: Array) -> Tensor:
        return torch.as_tensor(s.copy()).to(self.A.dtype).to(self.A.device)


def _eigh(T: Array) -> tuple[Array, Array]:
    values, S = np.linalg.eigh(T)
    return values[::-1], S[:, ::-1]
