"""Tracked rows as columns over steps, and kept apart from what was analysed."""

import pytest

from curvature import statistics
from curvature.runs.rows import TRACKING
from curvature.statistics.along import is_tracked
from tests.statistics.tables import Row


def row(metric: str, step: int, value: float | None, **fields: object) -> Row:
    return {
        "run": "a",
        "analysis": TRACKING,
        "metric": metric,
        "step": step,
        "value": value,
        "split": "train",
        "on": "train",
        "converged": True,
        "run.lr": 0.1,
        **fields,
    }


def test_a_row_for_each_step() -> None:
    rows = [
        row("trace", 20, 30.0),
        row("eigmax", 10, 4.0, converged=False),
        row("stability_threshold", 10, 20.0),
        row("eigmax", 20, None, status="diverged", converged=False),
        row("accuracy", 20, 0.5, analysis="evaluation-test"),
    ]
    assert statistics.along_training(rows) == [
        {
            "run": "a",
            "step": 10,
            "epoch": None,
            "unconverged": "eigmax",
            "run.lr": 0.1,
            "eigmax": 4.0,
            "stability_threshold": 20.0,
        },
        {
            "run": "a",
            "step": 20,
            "epoch": None,
            "unconverged": "",
            "run.lr": 0.1,
            "trace": 30.0,
            "eigmax": None,
        },
    ]


def test_of_two_trackers_one_is_to_be_named() -> None:
    rows = [row("eigmax", 10, 4.0), row("eigmax", 10, 5.0, analysis="tracking-test")]
    with pytest.raises(ValueError, match="as tracking and as tracking-test: choose one"):
        statistics.along_training(rows)
    (found,) = statistics.along_training(rows, "tracking-test")
    assert found["eigmax"] == 5.0
    assert is_tracked(rows[1])
    assert not is_tracked({"analysis": "d41d8cd98f00"})


def test_what_was_tracked_does_not_stand_in_for_an_analysis() -> None:
    analysed = row("eigmax", 10, 4.5, analysis="d41d8cd98f00", examples=1000)
    tracked = row("eigmax", 10, 4.0, examples=2000)
    (found,) = statistics.select([tracked, analysed], "eigmax", "train")
    assert found["value"] == 4.5
    (found,) = statistics.select([tracked, analysed], "eigmax", "train", analysis=TRACKING)
    assert found["value"] == 4.0
    with pytest.raises(ValueError, match="No row of eigmax"):
        statistics.select([tracked], "eigmax", "train")
