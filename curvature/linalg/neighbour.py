"""The largest eigenvalues of A by way of a cheaper operator B near it.

Lanczos's steps on B give start vectors, and a preconditioner for Davidson's steps on A (Davidson
1975; Morgan and Scott 1986): the correction of a residual r is (θ − B)⁻¹r with what is known of B.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from curvature.linalg.eigen_estimate import EigenEstimate
from curvature.linalg.krylov import Array
from curvature.linalg.lanczos import lanczos_space
from curvature.linalg.operator import LinearOperator, dots, norm

NEAR_RTOL = 0.02  # to which B's eigenvalues are bounded; B itself is further from A
RIVAL = 0.85  # of the value found: directions of which B says more are tried with A, too
LEFT = 1e-6  # squared part outside the tried directions, below which a direction is used up
STALLED = 0.5  # of a residual, left by its correction: B is no guide, only the residual bounds
SMALLEST_GAP = 0.05  # of the value: no correction is more than twenty times a residual
SAFETY = 6  # on the estimate, which isn't a bound: of 600 small networks 6 were further off
PATIENCE = 8  # products with A per eigenvalue

Report = Callable[[tuple[EigenEstimate, ...]], object]


def neighbour_lanczos(
    A: LinearOperator,
    B: LinearOperator,
    *,
    generator: torch.Generator,
    k: int = 1,
    rtol: float = 1e-3,
    max_products: int = 200,
    confidence: float = 0.99,
    report: Report | None = None,
) -> tuple[tuple[EigenEstimate, ...], int]:
    """The ``k`` largest eigenvalues of A, and the number of products with B.

    Values and residuals are A's. Larger ones are looked for in B only, with ``confidence``: of what
    A has and B has not there is no sign. Estimates that aren't converged mean that B was no help.
    """
    near, space = lanczos_space(
        B,
        generator=generator,
        k=k + 1 if 1 < k < B.size else k,  # the last of several is often one of more alike
        rtol=NEAR_RTOL,
        max_products=max_products,
        confidence=confidence,
    )
    searched = all(each.converged for each in near)
    values, _, S = space.ritz()
    known = _Known(values, torch.stack([space.vector(s) for s in S.T]))
    tried = _Tried(A)
    for y in known.vectors[:k]:
        tried.add(y)
    guided, corrected = np.full(k, True), None  # by B; the last corrected with its residual
    extra = 0
    limit = min(max_products, PATIENCE * k)
    while True:
        values, vectors, residuals = tried.ritz(k)
        for value, r in zip(values, residuals, strict=True):
            if float(norm(r)) > rtol * abs(value):
                known = known.extended(B, r)
                extra += 1
        rest = known.without(tried)
        sizes = np.array([float(norm(r)) for r in residuals])
        far = known.far_from(tried)
        estimates = [rest.error(value, r, far) for value, r in zip(values, residuals, strict=True)]
        if corrected is not None:
            index, before = corrected
            guided[index] = sizes[index] <= STALLED * before
        errors = np.where(guided, np.minimum(sizes, estimates), sizes)
        tolerances = rtol * np.abs(values)
        rival = rest.rival(values[-1])
        done = bool((errors <= tolerances).all()) and rival is None
        last = done or not searched or tried.products >= limit or values[-1] <= 0
        if last or report is not None:
            found = tuple(
                EigenEstimate(
                    value,
                    residual=float(norm(r)),
                    error=float(error),
                    confidence=0.0,
                    products=tried.products,
                    converged=done and searched and bool(values[-1] > 0),
                    vector=v,
                )
                for value, v, r, error, tolerance in zip(
                    values.tolist(), vectors, residuals, errors, tolerances, strict=True
                )
            )
            if report is not None:
                report(found)
            if last:
                return found, space.products + extra
        if rival is not None and (errors <= tolerances).all():
            corrected = None
            tried.add(rival)
        else:
            worst = int((errors / tolerances).argmax())
            corrected = worst, sizes[worst]
            tried.add(rest.correction(values[worst], residuals[worst]))


class _Tried:
    """Orthonormal directions V with their products AV, and Rayleigh–Ritz among them."""

    def __init__(self, A: LinearOperator) -> None:
        self.A = A
        self.V = torch.empty(0, A.size, dtype=A.dtype, device=A.device)
        self.AV = torch.empty(0, A.size, dtype=A.dtype, device=A.device)
        self.T: Array = np.zeros((0, 0))

    @property
    def products(self) -> int:
        """With A."""
        return len(self.V)

    def add(self, v: Tensor) -> None:
        """A direction, orthogonalised twice; one product."""
        for _ in range(2):
            v = torch.addmv(v, self.V.T, dots(self.V, v).to(v.dtype).to(v.device), alpha=-1)
            v = v / norm(v).item()
        Av = (self.A @ v).detach()
        self.V, self.AV = torch.cat([self.V, v[None]]), torch.cat([self.AV, Av[None]])
        column = dots(self.V, Av).cpu().numpy()
        self.T = np.pad(self.T, (0, 1))
        self.T[-1, :] = self.T[:, -1] = column
        if not np.isfinite(column).all():
            raise FloatingPointError(
                f"Product {self.products} with the operator isn't finite (vᵀAv = {column[-1]}). "
                "Look at the loss and the weights, or use float64."
            )

    def ritz(self, k: int) -> tuple[Array, list[Tensor], list[Tensor]]:
        """The k largest values, their unit vectors and residual vectors."""
        values, S = np.linalg.eigh(self.T)
        values, S = values[::-1][:k], S[:, ::-1][:, :k]
        columns = [torch.as_tensor(s.copy()).to(self.V) for s in S.T]
        vectors = [self.V.T @ s for s in columns]
        products = [self.AV.T @ s for s in columns]
        pairs = zip(values.tolist(), vectors, products, strict=True)
        return values, vectors, [Av - value * v for value, v, Av in pairs]


@dataclass(frozen=True)
class _Known:
    """Orthonormal ``vectors`` on which B is diag(``values``); of the rest B is taken to be 0."""

    values: Array
    vectors: Tensor

    def extended(self, B: LinearOperator, r: Tensor) -> _Known:
        """The same with the direction of ``r``: one product with B."""
        u = r
        for _ in range(2):
            part = dots(self.vectors, u).to(u.dtype).to(u.device)
            u = torch.addmv(u, self.vectors.T, part, alpha=-1)
            length = float(norm(u))
            if length == 0:
                return self
            u = u / length
        Bu = (B @ u).detach()
        vectors = torch.cat([self.vectors, u[None]])
        column = dots(vectors, Bu).cpu().numpy()
        T = np.diag(np.append(self.values, 0.0))
        T[-1, :] = T[:, -1] = column
        values, S = np.linalg.eigh(T)
        rotation = torch.as_tensor(S[:, ::-1].T.copy()).to(vectors)
        return _Known(values[::-1], rotation @ vectors)

    def without(self, tried: _Tried) -> _Known:
        """B compressed onto what is left of the vectors when those ``tried`` are taken away."""
        C = np.stack([dots(self.vectors, v).cpu().numpy() for v in tried.V], axis=1)
        left, Z = np.linalg.eigh(np.eye(len(C)) - C @ C.T)
        left, Z = np.sqrt(left[left > LEFT]), Z[:, left > LEFT]
        compressed = left[:, None] * (Z.T @ (self.values[:, None] * Z)) * left
        values, S = np.linalg.eigh(compressed)
        W = (Z / left) @ S[:, ::-1]
        W, CW = torch.as_tensor(W.T.copy()).to(self.vectors), torch.as_tensor(W.T @ C).to(tried.V)
        return _Known(values[::-1], W @ self.vectors - CW @ tried.V)

    def far_from(self, tried: _Tried) -> float:
        """‖VᵀBV − VᵀAV‖ of the directions tried: how far B's eigenvalues may be from A's."""
        C = np.stack([dots(self.vectors, v).cpu().numpy() for v in tried.V], axis=1)
        return float(np.linalg.norm(C.T @ (self.values[:, None] * C) - tried.T, 2))

    def rival(self, value: float) -> Tensor | None:
        """The direction of B's largest value, where that is near to ``value`` or above."""
        return self.vectors[0] if len(self.values) and self.values[0] > RIVAL * value else None

    def error(self, value: float, r: Tensor, far: float) -> float:
        """How far an eigenvalue can lie above ``value``: about rᵀ(θ − B)⁻¹r.

        Direction by direction it is the larger eigenvalue of [[0, p], [p, −gap]]; B's eigenvalues
        may be ``far`` too small.
        """
        parts, rest = self._parts(r)
        parts = np.append(parts, float(norm(rest)))
        gaps = np.append(np.maximum(value - far - self.values, 0), abs(value))
        above = 2 * parts**2 / np.maximum(gaps + np.hypot(gaps, 2 * parts), np.finfo(float).tiny)
        return SAFETY * float(above.sum())

    def correction(self, value: float, r: Tensor) -> Tensor:
        """(θ − B)⁻¹r."""
        parts, rest = self._parts(r)
        gaps = np.maximum(value - self.values, SMALLEST_GAP * abs(value))
        return torch.addmv(rest / value, self.vectors.T, torch.as_tensor(parts / gaps).to(r))

    def _parts(self, r: Tensor) -> tuple[Array, Tensor]:
        """The coordinates of ``r``, and what lies outside."""
        parts = dots(self.vectors, r)
        return parts.cpu().numpy(), torch.addmv(r, self.vectors.T, parts.to(r), alpha=-1)
