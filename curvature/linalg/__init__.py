"""Numerical linear algebra from products with vectors; knows no network."""

from curvature.linalg.operator import LinearOperator

__all__ = ["LinearOperator"]
