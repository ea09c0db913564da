"""Figures of tables: rows in, a matplotlib Figure out; one file per figure.

They draw columns that they name (`COLUMNS`), and neither load nor compute.
"""

from collections.abc import Callable
from typing import Any

from curvature.plots.comparison import comparison
from curvature.plots.heatmap import heatmap
from curvature.plots.networks import networks
from curvature.plots.output import FORMATS, caption_of, figure_bytes
from curvature.plots.relation import relation
from curvature.plots.sensitivity import sensitivity
from curvature.plots.training_curves import training_curves

FIGURES: dict[str, Callable[..., Any]] = {
    "heatmap": heatmap,
    "comparison": comparison,
    "networks": networks,
    "sensitivity": sensitivity,
    "relation": relation,
    "training_curves": training_curves,
}

__all__ = [
    "FIGURES",
    "FORMATS",
    "caption_of",
    "comparison",
    "figure_bytes",
    "heatmap",
    "networks",
    "relation",
    "sensitivity",
    "training_curves",
]
