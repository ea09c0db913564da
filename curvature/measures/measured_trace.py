"""What a trace is reported as."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from curvature.display import Shown
from curvature.linalg.hutchinson import student


@dataclass(frozen=True, repr=False)
class MeasuredTrace(Shown):
    """A trace, and how far it is off: ``standard_error`` by random signs and probes.

    ``sampling_error`` is that of the examples seen as a sample, the signs' share included.
    ``passes`` over all examples: gradients of all, or probes. ``blocks``: each parameter's share.
    ``scale_invariant``: Σ_i w_i² H_ii, where it was asked for.
    """

    _error = "standard_error"
    _brief = ("method",)

    value: float
    standard_error: float
    passes: float
    degrees: float
    converged: bool
    method: str
    sampling_error: float | None = None
    blocks: dict[str, float] | None = field(default=None, repr=False)
    block_errors: dict[str, float] | None = field(default=None, repr=False)
    scale_invariant: MeasuredTrace | None = None

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Student's interval for what the standard error covers."""
        if not 0 < level < 1:
            raise ValueError(f"`level` must lie between 0 and 1, got {level}.")
        if self.standard_error == 0:
            return (self.value, self.value)
        if self.degrees < 1:
            return (-math.inf, math.inf)
        half_width = student(level, self.degrees) * self.standard_error
        return (self.value - half_width, self.value + half_width)


def precise_enough(value: float, variance: float, degrees: float, rtol: float) -> bool:
    """Whether Student's interval is as narrow as ``rtol`` promises, early stops made up for."""
    if variance == 0:
        return True
    if degrees < 1:
        return False
    return caution(degrees) * math.sqrt(variance) <= rtol * abs(value)


def caution(degrees: float) -> float:
    """How much an error estimate from few degrees of freedom, at which one stops, is too small."""
    return student(0.95, degrees) / student(0.95, math.inf) * math.sqrt(1 + 2 / (degrees + 1))
