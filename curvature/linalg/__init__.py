"""Numerical linear algebra from products with vectors; knows no network."""

from curvature.linalg.eigen_estimate import EigenEstimate
from curvature.linalg.hutchinson import TraceEstimate, hutchinson_trace
from curvature.linalg.lanczos import lanczos
from curvature.linalg.operator import LinearOperator
from curvature.linalg.power_iteration import PowerEstimate, power_iteration

__all__ = [
    "EigenEstimate",
    "LinearOperator",
    "PowerEstimate",
    "TraceEstimate",
    "hutchinson_trace",
    "lanczos",
    "power_iteration",
]
