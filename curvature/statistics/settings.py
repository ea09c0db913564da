"""Each optimizer's best setting, chosen by a number of the validation data, never of the test."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from curvature.statistics.provenance import SETTING, refuse_different
from curvature.statistics.selection import measured_on, select
from curvature.statistics.summary import Row, summarize

LARGER_IS_BETTER = ("accuracy",)
SMALLER_IS_BETTER = ("loss", "calibration_error")


def best_settings(
    rows: Iterable[Mapping[str, Any]],
    *,
    metric: str = "accuracy",
    by: Sequence[str] = ("run.optimizer",),
) -> list[Row]:
    """The summary, on `val`, of the setting with the best mean over seeds, for each of ``by``.

    Only settings in which as many seeds came through as in the fullest are candidates, so that
    one lucky survivor of three wins nothing; ``settings`` counts them all. Where there is only
    one setting each, there is nothing to choose, and no validation data are needed.
    """
    if metric not in (*LARGER_IS_BETTER, *SMALLER_IS_BETTER):
        raise ValueError(
            f"The best setting is chosen by accuracy, loss or calibration_error, not `{metric}`."
        )
    rows = list(rows)
    if not any(measured_on(row) == "val" and row.get("metric") == metric for row in rows):
        only = _only_settings(rows, by)
        if only:
            return only
    selected = select(rows, metric, "val")
    refuse_different(selected, free=(*by, *SETTING), what="validation rows")
    sign = 1 if metric in LARGER_IS_BETTER else -1
    best = []
    summaries = summarize(selected, by=_columns(by), statistic="mean")
    levels: dict[tuple[Any, ...], list[Row]] = {}
    for row in summaries:
        levels.setdefault(tuple(row[name] for name in by), []).append(row)
    for of_level in levels.values():
        came_through = max(row["n"] for row in of_level)
        candidates = [row for row in of_level if row["n"] == came_through and came_through]
        if candidates:
            found = max(candidates, key=lambda row: sign * row["value"])
            best.append({**found, "settings": len(of_level), "candidates": len(candidates)})
    return best


def at_best(
    rows: Iterable[Mapping[str, Any]],
    best: Iterable[Mapping[str, Any]],
    *,
    by: Sequence[str] = ("run.optimizer",),
) -> list[Row]:
    """The rows of runs at the best settings, of every metric."""
    columns = _columns(by)
    chosen = {tuple(row.get(name) for name in columns) for row in best}
    return [dict(row) for row in rows if tuple(row.get(name) for name in columns) in chosen]


def _only_settings(rows: Sequence[Mapping[str, Any]], by: Sequence[str]) -> list[Row]:
    columns = _columns(by)
    keys = list(dict.fromkeys(tuple(row.get(name) for name in columns) for row in rows))
    if len({key[: len(by)] for key in keys}) < len(keys):
        return []
    nothing: Row = {"value": None, "n": 0, "settings": 1, "candidates": 1}
    return [{**dict(zip(columns, key, strict=True)), **nothing} for key in keys]


def _columns(by: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*by, *SETTING)))
