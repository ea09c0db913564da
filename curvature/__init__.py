"""A Hessian curvature analysis toolkit for PyTorch."""

from curvature._version import __version__

__all__ = ["__version__"]
