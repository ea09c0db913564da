"""The empirical risk: a network, a loss and batches as one function of the parameters."""

from curvature.empirical_risk.risk import EmpiricalRisk
from curvature.empirical_risk.survey import Survey

__all__ = ["EmpiricalRisk", "Survey"]
