"""From a table of rows to a table of statistics: what figures draw and reports tell."""

from curvature.statistics.along import along_training, is_tracked
from curvature.statistics.comparison import Verdict, compare
from curvature.statistics.correlation import Correlation, pair, spearman
from curvature.statistics.intervals import Interval, interval
from curvature.statistics.provenance import refuse_different
from curvature.statistics.selection import measured_on, select, where
from curvature.statistics.settings import at_best, best_settings
from curvature.statistics.summary import summarize

__all__ = [
    "Correlation",
    "Interval",
    "Verdict",
    "along_training",
    "at_best",
    "best_settings",
    "compare",
    "interval",
    "is_tracked",
    "measured_on",
    "pair",
    "refuse_different",
    "select",
    "spearman",
    "summarize",
    "where",
]
