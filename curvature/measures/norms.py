"""‖w‖ and ‖∇L‖, which stand beside every curvature: its scale, and how stationary the point is."""

from __future__ import annotations

from dataclasses import dataclass

from curvature.display import Shown
from curvature.empirical_risk import EmpiricalRisk
from curvature.empirical_risk.shortage import within_memory
from curvature.linalg.operator import norm


@dataclass(frozen=True, repr=False)
class Norms(Shown):
    """Euclidean norms over the parameters that are differentiated by."""

    _brief = ("weight_norm", "gradient_norm")

    weight_norm: float
    gradient_norm: float


def norms(risk: EmpiricalRisk) -> Norms:
    """‖w‖₂ and ‖∇L(w)‖₂, accumulated in float64; one gradient over all batches."""
    return Norms(float(norm(risk.weights())), float(norm(within_memory(risk, risk.gradient))))
