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

STALL = 0.1  # of (r/‖Av‖)²: ‖Av‖ grows by less where an eigenvalue below −0.55 ‖A‖ is in the way


@dataclass(frozen=True)
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
    rounding = ROUNDING * torch.finfo(A.dtype).eps
    v = random_unit(A, generator)
    shift = growth_expected = length_before = residual_before = 0.0
    for products in range(1, max_products + 1):
        w = sign * (A @ v).detach()
        value = dot(v, w).item()
        residual = norm(w - value * v).item()
        if not math.isfinite(residual):
            raise FloatingPointError(
                f"Product {products} with the operator isn't finite (‖Av − λv‖ = {residual}). "
                "Look at the loss and the weights, or use float64."
            )
        floor = rounding * max(abs(value), abs(shift), residual)
        dominant = value + shift  # the eigenvalue of A + shift · I
        small = residual <= rtol * abs(value) and residual < residual_before
        converged = (small or residual <= floor) and dominant >= -floor
        estimate = PowerEstimate(
            value=sign * value,
            residual=residual,
            error=residual,
            confidence=0.0,
            products=products,
            converged=converged,
            vector=v,
            shift=sign * shift,
        )
        if report is not None:
            report(estimate)
        if converged:
            break
        length = math.hypot(dominant, residual)
        negative = dominant < 0 and residual <= -dominant / 10
        stalled = length - length_before <= growth_expected * length_before
        if negative or (stalled and growth_expected > rounding):
            shift += length
            growth_expected = length_before = residual_before = 0.0
            v = random_unit(A, generator)  # v may by now be orthogonal to the vector wanted
        else:
            growth_expected = STALL * (residual / length) ** 2
            length_before, residual_before = length, residual
            u = w + shift * v
            v = u / norm(u).item()
    return estimate
