"""Extreme eigenvalues by Lanczos's method, fully reorthogonalised, with a bound from the start.

References: Lanczos 1950; Wu and Simon 2000 (thick restart); van Dorsselaer, Hochstenbach and
van der Vorst 2000 (bounds that hold with a probability over the random start).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from curvature.linalg.eigen_estimate import EigenEstimate
from curvature.linalg.krylov import Array, Krylov
from curvature.linalg.operator import LinearOperator, norm
from curvature.linalg.random_vectors import random_unit

ROUNDING = 100  # times the machine epsilon times ‖A‖: below that no product tells more
START_NOISE = 1.0  # a given start's random part, on which the bounds rest: 0.1 costs a product more
SAFETY = 4  # r²/gap promised 6e-4 where 2.4e-3 was true: the gap is itself an estimate


def lanczos(
    A: LinearOperator,
    *,
    generator: torch.Generator,
    k: int = 1,
    which: Literal["largest", "smallest"] = "largest",
    rtol: float = 1e-3,
    max_products: int = 200,
    max_basis: int | None = None,
    start: Tensor | None = None,
    confidence: float = 0.99,
    report: Callable[[tuple[EigenEstimate, ...]], object] | None = None,
) -> tuple[EigenEstimate, ...]:
    """Find the ``k`` largest (or smallest) eigenvalues of A, algebraically, multiplicities counted.

    Stops when every error is at most ``rtol`` · |value|, or the rounding of A's dtype; what that
    rounding hides is not converged, unless it is 0 for all that can be told. A small
    residual certifies *an* eigenvalue; that none lies further out follows, with probability
    ``confidence``, from the random start. At ``confidence=0`` nothing is looked for further out:
    cheaper by three products or more, and right only from a ``start`` that is known to be near.
    Keeps at most ``max_basis`` vectors (by default 64 + 2k); then it restarts from the best.
    """
    return lanczos_space(
        A,
        generator=generator,
        k=k,
        which=which,
        rtol=rtol,
        max_products=max_products,
        max_basis=max_basis,
        start=start,
        confidence=confidence,
        report=report,
    )[0]


def lanczos_space(
    A: LinearOperator,
    *,
    generator: torch.Generator,
    k: int = 1,
    which: Literal["largest", "smallest"] = "largest",
    rtol: float = 1e-3,
    max_products: int = 200,
    max_basis: int | None = None,
    start: Tensor | None = None,
    confidence: float = 0.99,
    report: Callable[[tuple[EigenEstimate, ...]], object] | None = None,
) -> tuple[tuple[EigenEstimate, ...], Krylov]:
    """The same, with the space that its products span."""
    capacity = 64 + 2 * k if max_basis is None else max_basis
    _check(A, k, which, rtol, max_products, capacity, confidence)
    space = Krylov(A, sign=1 if which == "largest" else -1, capacity=capacity)
    space.begin(*_start(space, generator, confidence, start))
    while True:
        space.step()
        view = _look(space, k, rtol, confidence)
        last = view.done or space.products == max_products
        if last or report is not None:
            estimates = view.estimates(space, confidence)
            if report is not None:
                report(estimates)
            if last:
                return estimates, space
        if space.invariant or view.settled:
            space.lock(min(k, space.size))
            space.begin(*_start(space, generator, confidence, None))
        elif space.size == space.capacity:
            space.restart(max(k, (space.size - space.locked) // 2))


@dataclass(frozen=True)
class _View:
    """The k largest Ritz pairs, fewer at first; ``settled``: their chain has nothing to add."""

    values: Array
    residuals: Array
    vectors: Array
    errors: Array
    converged: npt.NDArray[np.bool_]
    done: bool
    settled: bool

    def estimates(self, space: Krylov, confidence: float) -> tuple[EigenEstimate, ...]:
        floor = _rounding(space)
        return tuple(
            EigenEstimate(
                value=space.sign * float(self.values[i]) + 0.0,  # not -0.0
                residual=max(float(self.residuals[i]), floor),
                error=float(self.errors[i]),
                confidence=confidence,
                products=space.products,
                converged=bool(self.converged[i]),
                vector=space.vector(self.vectors[:, i]),
            )
            for i in range(len(self.values))
        )


def _look(space: Krylov, k: int, rtol: float, confidence: float) -> _View:
    values, residuals, S = space.ritz()
    top = values[:k]
    nothing = ROUNDING * space.eps * space.scale
    zero = np.abs(top) <= nothing  # for all that can be told
    tolerances = np.maximum(rtol * np.abs(top), np.where(zero, nothing, _rounding(space)))
    settled = False
    if confidence == 0:
        errors = _estimated_errors(values, residuals)[:k]
    else:
        errors = _bounds(space, top, space.limit())
        # A quarter leaves room for the residuals of several chains to add up.
        if len(top) == k and np.linalg.norm(residuals[:k]) <= tolerances.min() / 4:
            at_best = _bounds(space, top, space.chain_top())
            settled = bool((at_best > tolerances).any())
    done = len(top) == k and bool((errors <= tolerances).all())
    own = np.where(zero, nothing, max(rtol, ROUNDING * space.eps) * np.abs(top))
    converged = (errors <= tolerances) & (np.maximum(errors, 2 * space.asymmetry) <= own)
    errors = np.maximum(errors, np.where(zero, nothing, _rounding(space)))
    return _View(top, residuals[:k], S[:, :k], errors, converged, done, settled)


def _rounding(space: Krylov) -> float:
    """How far a product's rounding may move an eigenvalue: what the recurrence doesn't see."""
    return max(4 * space.eps * space.scale, 2 * space.asymmetry)


def _bounds(space: Krylov, values: Array, limit: float) -> Array:
    """How far above ``values`` the eigenvalues can lie, the chain's operator being ≤ ``limit``.

    With ℓ locked rows of residual norm ρ, λ_i is at most the larger eigenvalue of [[θ_i, ρ],
    [ρ, limit]] for i ≤ ℓ, and, by interlacing, at most ``limit`` for i > ℓ.
    """
    if space.size == space.A.size:
        return np.zeros(len(values))
    theta = np.diag(space.T)[: space.locked][: len(values)]
    rho = float(np.linalg.norm(space.locked_residuals))
    above = (theta + limit) / 2 + np.hypot((theta - limit) / 2, rho)
    above = np.append(above, np.full(len(values) - len(theta), limit))
    return np.maximum(above - values, 0)


def _estimated_errors(values: Array, residuals: Array) -> Array:
    """min(r, 4 r²/gap), the gap being that to the neighbouring Ritz values with their residuals."""
    gaps = values[:-1] - values[1:]
    below = np.append(gaps - residuals[1:], math.inf)
    above = np.append(math.inf, gaps - residuals[:-1])
    gap = np.minimum(below, above)
    known = np.isfinite(gap) & (gap > 0)
    quadratic = SAFETY * residuals**2 / np.where(known, gap, 1)
    return np.where(known, np.minimum(residuals, quadratic), residuals)


def _start(
    space: Krylov, generator: torch.Generator, confidence: float, given: Tensor | None
) -> tuple[Tensor, float]:
    """A start vector, and −log of the part in any one direction that it has but for bad luck.

    Of a random unit vector in d dimensions, P(|part| < δ) ≤ δ √(2d/π).
    """
    n = space.A.size
    random = random_unit(space.A, generator)
    log_odds = math.inf
    if confidence > 0:
        log_odds = math.log(math.sqrt(2 * (n - space.locked) / math.pi) / (1 - confidence))
    if given is None:
        return random, log_odds
    length = norm(given).item()
    if given.shape != (n,) or not (0 < length < math.inf):
        raise ValueError(
            f"`start` must be a finite vector of {n} numbers that aren't all zero, got shape "
            f"{tuple(given.shape)} and norm {length}."
        )
    start = given.to(space.A.device, space.A.dtype) / length
    if confidence == 0:
        return start, log_odds
    return start + START_NOISE * random, log_odds + math.log((1 + START_NOISE) / START_NOISE)


def _check(
    A: LinearOperator,
    k: int,
    which: str,
    rtol: float,
    max_products: int,
    max_basis: int,
    confidence: float,
) -> None:
    if which not in ("largest", "smallest"):
        raise ValueError(f"`which` is `largest` or `smallest`, not `{which}`.")
    if not 1 <= k <= A.size:
        raise ValueError(f"`k` must lie between 1 and {A.size}, the operator's size; got {k}.")
    if max_products < k:
        raise ValueError(f"{k} eigenvalues take at least {k} products, got {max_products}.")
    if max_basis < 2 * k + 4:
        raise ValueError(f"`max_basis` must be at least 2k + 4 = {2 * k + 4}, got {max_basis}.")
    if not 0 <= confidence < 1:
        raise ValueError(f"`confidence` must be at least 0 and below 1, got {confidence}.")
    if rtol < 0:
        raise ValueError(f"`rtol` can't be negative, got {rtol}.")
