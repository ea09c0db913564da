"""Rank correlation between two metrics over settings, with its interval.

Spearman's ρ with the Fisher transformation and the variance (1 + ρ²/2)/(n − 3) of Bonett &
Wright 2000. A point is the mean over a setting's seeds: seeds of one setting are no independent
points.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from curvature.statistics.provenance import SETTING, refuse_different
from curvature.statistics.selection import select
from curvature.statistics.summary import Row, summarize

FEWEST = 5  # points for an interval

_BY = ("run.optimizer", *SETTING)


@dataclass(frozen=True)
class Correlation:
    """``value`` is None where one side is constant; the interval where points are too few."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def spearman(x: Sequence[float], y: Sequence[float], *, confidence: float = 0.95) -> Correlation:
    """Spearman's rank correlation; ties share their mean rank."""
    if len(x) != len(y):
        raise ValueError(f"A correlation needs pairs, got {len(x)} and {len(y)} values.")
    n = len(x)
    a, b = _ranks(x), _ranks(y)
    if n < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return Correlation(None, None, None, n)
    rho = float(np.clip(np.corrcoef(a, b)[0, 1], -1, 1))
    if n < FEWEST or abs(rho) == 1:
        return Correlation(rho, None, None, n)
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt((1 + rho**2 / 2) / (n - 3))
    z = math.atanh(rho)
    return Correlation(rho, math.tanh(z - half), math.tanh(z + half), n)


def pair(
    rows: Iterable[Mapping[str, Any]], x: str, y: str = "accuracy", *, on: str = "test"
) -> list[Row]:
    """A row for each setting with its means ``x`` and ``y``, then the rank correlations.

    Those have the metric `rank_correlation`: one over all settings, one for each optimizer.
    """
    rows = list(rows)
    sides: list[dict[tuple[Any, ...], Row]] = []
    for metric in (x, y):
        selected = select(rows, metric, on)
        refuse_different(selected, free=_BY, what=f"rows of {metric} on {on}")
        summaries = summarize(selected, by=_BY)
        sides.append({tuple(row[name] for name in _BY): row for row in summaries})
    points = []
    for key, left in sides[0].items():
        right = sides[1].get(key)
        if right is None or left["value"] is None or right["value"] is None:
            continue
        point = {"x": left["value"], "y": right["value"], "x_metric": x, "y_metric": y, "on": on}
        counts = {"n": min(left["n"], right["n"]), "converged": left["converged"]}
        points.append({**dict(zip(_BY, key, strict=True)), **point, **counts})
    optimizers = dict.fromkeys(point["run.optimizer"] for point in points)
    found = [_correlation_row(points, None)]
    for name in optimizers:
        found.append(_correlation_row([p for p in points if p["run.optimizer"] == name], name))
    return points + found


def _correlation_row(points: Sequence[Row], optimizer: str | None) -> Row:
    found = spearman([p["x"] for p in points], [p["y"] for p in points])
    bounds = {"value": found.value, "low": found.low, "high": found.high, "n": found.n}
    return {"metric": "rank_correlation", "run.optimizer": optimizer, **bounds}


def _ranks(values: Sequence[float]) -> Any:
    x = np.asarray(values, dtype=np.float64)
    ranks = np.empty(len(x))
    ranks[np.argsort(x, kind="stable")] = np.arange(1, len(x) + 1)
    for value in np.unique(x):
        tied = x == value
        ranks[tied] = ranks[tied].mean()
    return ranks
