"""Rows of runs that differ only by their seed, as one row with low, high and n."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from curvature.statistics.intervals import interval
from curvature.statistics.provenance import refuse_different

Row = dict[str, Any]

BY = ("run.optimizer", "run.lr", "run.weight_decay")
LOGARITHMIC = (
    "trace",
    "scale_invariant_trace",
    "eigmax",
    "eigenvalue",
)  # they differ by factors, over decades

_OF_ONE_RUN = ("run", "analysis", "checkpoint", "checkpoint_hash", "file", "seed", "run.seed")
_NUMBERS = ("value", "standard_error", "sampling_error", "residual", "low", "high", "passes")


def summarize(
    rows: Iterable[Mapping[str, Any]],
    *,
    by: Sequence[str] = BY,
    statistic: str = "auto",
    confidence: float = 0.95,
    generator: torch.Generator | None = None,
) -> list[Row]:
    """A row for each combination of ``by``: value, low, high, n, and what diverged or fell short.

    ``auto`` is the geometric mean for curvatures that are all positive, else the mean. Columns
    that agree within a group are kept. A group's rows may differ in their seed alone.
    """
    rows = list(rows)
    if statistic == "auto":
        statistic = "geometric" if on_log_scale(rows) else "mean"
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in by), []).append(row)
    found = []
    for key in sorted(groups, key=_order):
        named = ", ".join(f"{name} {value}" for name, value in zip(by, key, strict=True))
        refuse_different(groups[key], free=by, what=f"rows of {named}")
        summary = _summary(groups[key], statistic, confidence, generator)
        found.append({**_common(groups[key]), **summary, **dict(zip(by, key, strict=True))})
    return found


def on_log_scale(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Curvatures that are all positive are averaged, and compared, by factors."""
    good = [row for row in rows if row.get("value") is not None]
    return bool(good) and all(row.get("metric") in LOGARITHMIC and row["value"] > 0 for row in good)


def _summary(
    rows: Sequence[Mapping[str, Any]],
    statistic: str,
    confidence: float,
    generator: torch.Generator | None,
) -> Row:
    good = [row for row in rows if row.get("value") is not None]
    counts = {
        "n": len(good),
        "diverged": sum(row.get("status") == "diverged" for row in rows),
        "failed": sum(row.get("status") == "failed" for row in rows),
        "unconverged": sum(row.get("converged") is False for row in good),
    }
    if not good:
        status = "diverged" if counts["diverged"] else "failed"
        absent = dict.fromkeys(("value", "low", "high", "standard_error"))
        return {**counts, **absent, "status": status, "converged": False}
    values = [row["value"] for row in good]
    mean = interval(values, statistic=statistic, confidence=confidence, generator=generator)
    errors = [row["standard_error"] for row in good if row.get("standard_error") is not None]
    return {
        **counts,
        "value": mean.value,
        "low": mean.low,
        "high": mean.high,
        "standard_error": math.hypot(*errors) / len(good) if errors else None,
        "statistic": mean.method,
        "status": "ok",
        "converged": counts["unconverged"] == 0,
    }


def _common(rows: Sequence[Mapping[str, Any]]) -> Row:
    """What all rows agree in, of what isn't a number or a single run's."""
    common: Row = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        if name in _OF_ONE_RUN or name in _NUMBERS or any(v != values[0] for v in values):
            continue
        common[name] = values[0]
    return common


def _order(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """Numbers by size, text by the alphabet, nothing first."""
    return tuple(
        (0, 0.0, "")
        if value is None
        else (1, float(value), "")
        if isinstance(value, int | float)
        else (2, 0.0, str(value))
        for value in key
    )
