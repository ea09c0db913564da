"""Rows without a value, for what diverged or failed: a table has no holes without a reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from curvature.runs.config import AnalysisConfig
from curvature.runs.folder import OWN_PARTS, part_name
from curvature.runs.rows import Row, measured_on

if TYPE_CHECKING:
    from curvature.sweep.work import Work

EVALUATED = ("loss", "accuracy", "calibration_error")


def absent_evaluation(work: Work, asked: str, status: str, message: str | None) -> list[Row]:
    """A row for loss, accuracy and calibration on a part of the data."""
    own = asked in OWN_PARTS
    spec, split = (work.config.data, asked) if own else (asked, "test")
    about = _about(work, f"evaluation-{part_name(asked)}", spec, split, 0)
    return [{**about, "metric": m, "status": status, "message": message} for m in EVALUATED]


def absent_measures(
    work: Work, analysis: AnalysisConfig, status: str, message: str | None, *, step: int = 0
) -> list[Row]:
    """A row for each measure asked for; of loss and accuracy where no evaluation has them."""
    spec = analysis.data or work.config.data
    about = _about(work, analysis.id, spec, analysis.split, step)
    about |= {"dtype": analysis.dtype, "seed": analysis.seed, "batch_size": analysis.batch_size}
    asked = {
        "eigmax": analysis.wants_eigmax,
        "eigmin": analysis.eigmin,
        "trace": analysis.wants_trace,
        "scale_invariant_trace": analysis.scale_invariant,
    }
    evaluated = analysis.data or analysis.split
    measures = [] if evaluated in work.evaluate_on else ["loss", "accuracy"]
    measures += [name for name, wanted in asked.items() if wanted]
    return [{**about, "metric": m, "status": status, "message": message} for m in measures]


def _about(work: Work, analysis: str, data: str, split: str, step: int) -> dict[str, Any]:
    config = work.config
    return {
        "run": config.id,
        "analysis": analysis,
        "step": step,
        "block": None,
        "probe": None,
        "index": 0,
        "value": None,
        "converged": False,
        "model": config.model,
        "data": data,
        "split": split,
        "on": measured_on(data, split, config.data),
        **config.as_columns(),
    }
