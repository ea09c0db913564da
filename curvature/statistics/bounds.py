"""How far a network's number may be off: by the probes, and by the examples that were taken.

The probes' interval is Student's (a trace) or the residual (an eigenvalue); the examples' is
Wilson's (1927) for an accuracy, else normal. At ``share`` networks each holds at 1 − α / share, so
that all hold together (Bonferroni).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from curvature.statistics.intervals import t_quantile

FEWEST_DEGREES = 6  # the fewest seen of traces got by parts, whose rows don't tell theirs
ROUNDING = {"float32": 3e-4, "float64": 1e-9}  # relative; λ_max moves by it with the images' order

EIGENVALUES = ("eigmax", "eigmin", "eigenvalue")
_BY_PROBES = ("trace",)


@dataclass(frozen=True)
class Bounds:
    """``low`` and ``high`` on the examples measured; ``wide_`` on others like them, where known."""

    low: float | None
    high: float | None
    wide_low: float | None = None
    wide_high: float | None = None


def bounds(row: Mapping[str, Any], *, share: int = 1, confidence: float = 0.95) -> Bounds:
    """The intervals of a row's value; None where no error is known."""
    row = {k: v for k, v in row.items() if not isinstance(v, float) or math.isfinite(v)}
    value = row.get("value")
    if value is None:
        return Bounds(None, None)
    alpha = (1 - confidence) / share
    half = _half_width(row, alpha)
    if half is None:
        return Bounds(None, None)
    rounding = ROUNDING.get(str(row.get("dtype")), ROUNDING["float32"])
    half = max(half, max(rounding, row.get("products_error") or 0.0) * abs(value))
    sampling = row.get("sampling_error")
    if row.get("metric") == "accuracy":
        return Bounds(value, value, *_wilson(value, sampling, row.get("examples"), alpha))
    if sampling is None:
        return Bounds(value - half, value + half)
    wide = max(half, NormalDist().inv_cdf(1 - alpha / 2) * sampling)
    return Bounds(value - half, value + half, value - wide, value + wide)


def _half_width(row: Mapping[str, Any], alpha: float) -> float | None:
    metric, error, residual = row.get("metric"), row.get("standard_error"), row.get("residual")
    if metric in EIGENVALUES:
        return None if residual is None else float(residual)
    if metric not in _BY_PROBES or error == 0:
        return 0.0
    if error is None:
        return None
    passes = row.get("passes")
    by_probes = row.get("method") in ("hutchinson", "pyhessian") and passes
    degrees = max(1.0, float(passes or 0) - 1) if by_probes else FEWEST_DEGREES
    return t_quantile(1 - alpha / 2, degrees) * float(error)


def _wilson(
    p: float, error: float | None, examples: Any, alpha: float
) -> tuple[float | None, float | None]:
    """From the examples that counted, which the standard error tells where it is not 0."""
    n = p * (1 - p) / error**2 if error else examples
    if not n:
        return None, None
    z2 = NormalDist().inv_cdf(1 - alpha / 2) ** 2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n**2))) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)
