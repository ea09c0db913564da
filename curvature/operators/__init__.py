"""From an empirical risk to matrices known by their products: H, G and H − G."""

from curvature.operators.build import OPERATORS, functional_hessian, ggn, hessian
from curvature.operators.risk_operator import RiskOperator

__all__ = ["OPERATORS", "RiskOperator", "functional_hessian", "ggn", "hessian"]
