"""What is known of an eigenvalue after a number of products."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from curvature.display import Shown


@dataclass(frozen=True, repr=False)
class EigenEstimate(Shown):
    """An approximate eigenpair: ``value`` is the Rayleigh quotient of the unit vector ``vector``.

    Some eigenvalue lies within ``residual`` = ‖Av − value · v‖. That it is the one asked for, and
    within ``error``, holds with probability ``confidence`` over the random start; where that is 0
    no other was looked for among all terms of A, and ``error`` is an estimate; ``searched`` then
    says where a larger one was looked for. ``products`` counts those of the whole call.
    """

    _error = "error"
    _brief = ("residual", "products")

    value: float
    residual: float
    error: float
    confidence: float
    products: int
    converged: bool
    vector: Tensor = field(repr=False, compare=False)
    searched: str = ""
