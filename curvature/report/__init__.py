"""One page of HTML that holds a whole study: grid, figures, verdicts, trust, provenance."""

from curvature.report.page import render

__all__ = ["render"]
