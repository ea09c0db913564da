"""The largest eigenvalue by power iteration, shifted where the negative end is in the way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from curvature.linalg.eigen_estimate import EigenEstimate
from curvature.linalg.lanczos import ROUNDING
from curvature.linalg.operator import LinearOperator, dot, norm
from curvature.linalg.random_vectors import random_unit

# Of (r/‖Av‖)²: by less than that ‖Av‖ grows where an eigenvalue below −0.55 ‖A‖ is in the way.
STALL = 0.1


@dataclass(frozen=True, repr=False)
class PowerEstimate(EigenEstimate):
    """The same; ``shift`` ≠ 0 says that A + shift · I was iterated, as A's other end is large."""

    shift: float = 0.0


def power_iteration(
    A: LinearOperator,
    *,
    generator: torch.Generator,
    which: Literal["largest", "smallest"] = "largest",
    rtol: float = 1e-3,
    max_products: int = 1000,
    report: Callable[[PowerEstimate], object] | None = None,
) -> PowerEstimate:
    """Find A's largest (or smallest) eigenvalue, algebraically, not the largest in magnitude.

    Stops when the residual is at most ``rtol`` · |value| and falling (it would grow with a part
    of a larger eigenvalue), or is the rounding of A's dtype: then some eigenvalue is that near.
    Nothing more is known of what lies further out (``confidence`` is 0): for that, and for far
    fewer products, take ``lanczos``.
    """
    if which not in ("largest", "smallest"):
        raise ValueError(f"`which` is `largest` or `smallest`, not `{which}`.")
    if max_products < 1:
        raise ValueError(f"`max_products` must be at least 1, got {max_products}.")
    if rtol < 0:
        raise ValueError(f"`rtol` can't be negative, got {rtol}.")
    sign = 1 if which == "largest" else -1
    watch = _Watch(rtol, ROUNDING * torch.finfo(A.dtype).eps)
    v = random_unit(A, generator)
    for products in range(1, max_products + 1):
        w = sign * (A @ v).detach()
        value = dot(v, w).item()
        residual = norm(w - value * v).item()
        if not math.isfinite(residual):
            raise FloatingPointError(
                f"Product {products} with the operator isn't finite (‖Av − λv‖ = {residual}). "
                "Look at the loss and the weights, or use float64."
            )
        estimate = PowerEstimate(
            value=sign * value + 0.0,  # not -0.0
            residual=residual,
            error=residual,
            confidence=0.0,
            products=products,
            converged=watch.settled(value, residual),
            vector=v,
            shift=sign * watch.shift + 0.0,
        )
        if report is not None:
            report(estimate)
        if estimate.converged:
            break
        if watch.shifts(value, residual):
            v = random_unit(A, generator)  # v may by now be orthogonal to the vector wanted
        else:
            u = w + watch.shift * v
            v = u / norm(u).item()
    return estimate


class _Watch:
    """Judges the iteration with B = A + shift · I by the values and residuals that it gives."""

    def __init__(self, rtol: float, rounding: float) -> None:
        self.rtol, self.rounding = rtol, rounding
        self.shift = self._growth = self._length = self._residual = 0.0

    def settled(self, value: float, residual: float) -> bool:
        """Whether v is an eigenvector, and not one for a negative eigenvalue of B."""
        floor = self.rounding * max(abs(value), self.shift, residual)
        small = residual <= self.rtol * abs(value) and residual < self._residual
        return (small or residual <= floor) and value + self.shift >= -floor

    def shifts(self, value: float, residual: float) -> bool:
        """Whether B's negative end is in the way; then ``shift`` has grown by ‖Bv‖."""
        dominant = value + self.shift
        length = math.hypot(dominant, residual)
        negative = dominant < 0 and residual <= -dominant / 10
        stalled = length - self._length <= self._growth * self._length
        if negative or (stalled and self._growth > self.rounding):
            self.shift += length
            self._growth = self._length = self._residual = 0.0
            return True
        self._growth = STALL * (residual / length) ** 2
        self._length, self._residual = length, residual
        return False
