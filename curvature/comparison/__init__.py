"""Networks side by side under one protocol: `curvature.compare`."""

from curvature.comparison.side_by_side import Comparison, compare

__all__ = ["Comparison", "compare"]
