"""‖w‖ and ‖∇L‖, which stand beside every curvature: its scale, and how stationary the point is."""

from __future__ import annotations

from dataclasses import dataclass

from curvature.empirical_risk import EmpiricalRisk
from curvature.empirical_risk.shortage import within_memory
from curvature.linalg.operator import norm


@dataclass(frozen=True)
class Norms:
    """Euclidean norms over the parameters that are differentiated by."""

    weight_norm: float
    gradient_norm: float


def norms(risk: EmpiricalRisk) -> Norms:
    """‖w‖₂ and ‖∇L(w)‖₂, accumulated in float64; one gradient over all batches."""
    return Norms(float(norm(risk.weights())), float(norm(within_memory(risk, risk.gradient))))
