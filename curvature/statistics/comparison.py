"""Is one optimizer's minimum flatter than another's? Only if the noise cannot explain it.

For each pair the difference of means over seeds (positive curvatures: the ratio of geometric
means) with Welch's t-interval, p-values corrected over all pairs (Holm 1979). The noise of a mean
is the spread over seeds, at least the estimates' own standard errors; an eigenvalue's residual
widens the interval besides, since it is no noise that averages out.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from curvature.statistics.intervals import t_quantile
from curvature.statistics.provenance import SETTING, refuse_different
from curvature.statistics.summary import LOGARITHMIC, on_log_scale

WORDS = {"trace": "flatter", "eigmax": "flatter", "accuracy": "more accurate"}
LARGER_WINS = ("accuracy",)


@dataclass(frozen=True)
class Verdict:
    """What may be said of ``a`` and ``b``: difference a − b, or the ratio a / b, and its interval.

    ``p`` is corrected over all pairs of the comparison. ``winner`` is None where nothing may be
    said; ``reason`` tells why.
    """

    metric: str
    a: str
    b: str
    value: float | None
    low: float | None
    high: float | None
    p: float | None
    ratio: bool
    winner: str | None
    reason: str

    @property
    def loser(self) -> str | None:
        """The other one, where there is a winner."""
        return None if self.winner is None else self.b if self.winner == self.a else self.a

    @property
    def of_loser(self) -> tuple[float, float, float]:
        """Loser − winner, or loser / winner, and its interval."""
        assert self.value is not None
        assert self.low is not None
        assert self.high is not None
        if self.winner == self.b:
            return self.value, self.low, self.high
        if self.ratio:
            return 1 / self.value, 1 / self.high, 1 / self.low
        return -self.value, -self.high, -self.low

    def __str__(self) -> str:
        if self.winner is None:
            return f"{self.a} and {self.b}: indistinguishable in {self.metric} ({self.reason})"
        return f"{self.winner} is {self.reason} than {self.loser}"


@dataclass(frozen=True)
class _Level:
    mean: float
    variance: float  # of the mean
    spread: float
    n: int
    residual: float
    unbounded: int  # unconverged values that nothing bounds


def compare(
    rows: Iterable[Mapping[str, Any]], *, factor: str = "run.optimizer", confidence: float = 0.95
) -> list[Verdict]:
    """A verdict on each pair of ``factor``'s levels, from selected rows of one metric.

    Raises:
        ValueError: if the rows differ in anything but the factor, the settings and the seeds.
    """
    rows = list(rows)
    metrics = sorted({str(row.get("metric")) for row in rows})
    if len(metrics) > 1:
        raise ValueError(f"One metric at a time is compared, got {', '.join(metrics)}.")
    refuse_different(rows, free=(factor, *SETTING), what=f"rows of {''.join(metrics)}")
    log = on_log_scale(rows)
    levels = {}
    for name in dict.fromkeys(row.get(factor) for row in rows):
        of_level = [row for row in rows if row.get(factor) == name]
        refuse_different(of_level, what=f"rows of {name}")
        levels[str(name)] = _level([r for r in of_level if r.get("value") is not None], log)
    positive = log or metrics[0] not in LOGARITHMIC
    found = [
        _verdict(metrics[0], (a, levels[a]), (b, levels[b]), log, positive, confidence)
        for a, b in combinations(levels, 2)
    ]
    return _holm(found, 1 - confidence)


def _level(rows: Sequence[Mapping[str, Any]], log: bool) -> _Level | None:
    n = len(rows)
    if n == 0:
        return None
    scale = [row["value"] if log else 1.0 for row in rows]  # d log x = dx / x
    y = [math.log(row["value"]) if log else row["value"] for row in rows]
    errors = [(row.get("standard_error") or 0.0) / s for row, s in zip(rows, scale, strict=True)]
    residuals = [(row.get("residual") or 0.0) / s for row, s in zip(rows, scale, strict=True)]
    mean = math.fsum(y) / n
    spread = math.fsum((v - mean) ** 2 for v in y) / (n - 1) if n > 1 else 0.0
    of_estimates = math.fsum(error**2 for error in errors) / n
    unbounded = sum(
        row.get("converged") is False
        and row.get("standard_error") is None
        and row.get("residual") is None
        for row in rows
    )
    residual = math.fsum(residuals) / n
    return _Level(mean, max(spread, of_estimates) / n, spread, n, residual, unbounded)


def _verdict(
    metric: str,
    a: tuple[str, _Level | None],
    b: tuple[str, _Level | None],
    log: bool,
    positive: bool,
    confidence: float,
) -> Verdict:
    nothing = Verdict(metric, a[0], b[0], None, None, None, None, log, None, "")
    x, y = a[1], b[1]
    for name, level in (a, b):
        if level is None:
            return replace(nothing, reason=f"no run of {name} has a value")
    assert x is not None
    assert y is not None
    d = x.mean - y.mean
    back = _exp if log else float
    nothing = replace(nothing, value=back(d))
    for name, level in ((a[0], x), (b[0], y)):
        if level.n < 2:
            return replace(nothing, reason=f"{name} has one seed, so the noise is unknown")
        if level.unbounded:
            return replace(nothing, reason=f"{level.unbounded} of {name}'s values did not converge")
    variance = x.variance + y.variance
    if x.spread == 0 or y.spread == 0:
        name = a[0] if x.spread == 0 else b[0]
        return replace(nothing, reason=f"{name}'s seeds are all alike, so the noise is unknown")
    error = math.sqrt(variance)
    df = variance**2 / (x.variance**2 / (x.n - 1) + y.variance**2 / (y.n - 1))
    residual = x.residual + y.residual
    half = t_quantile(0.5 + confidence / 2, df) * error + residual
    p = 2 * _t_cdf(-max(abs(d) - residual, 0.0) / error, df)
    lower = d < 0
    winner = a[0] if lower != (metric in LARGER_WINS) else b[0]
    word = WORDS.get(metric, "lower in " + metric) if positive else f"lower in {metric}"
    return replace(
        nothing, low=back(d - half), high=back(d + half), p=p, winner=winner, reason=word
    )


def _holm(verdicts: Sequence[Verdict], alpha: float) -> list[Verdict]:
    """p-values times the number of those not smaller, never falling; the winners that remain."""
    tested = sorted((v for v in verdicts if v.p is not None), key=lambda v: v.p or 0.0)
    corrected: dict[int, float] = {}
    largest = 0.0
    for rank, verdict in enumerate(tested):
        largest = max(largest, min(1.0, (verdict.p or 0.0) * (len(tested) - rank)))
        corrected[id(verdict)] = largest
    found = []
    for verdict in verdicts:
        p = corrected.get(id(verdict))
        if p is not None and p < alpha:
            verdict = replace(verdict, p=p)
        elif p is not None:
            within = "the difference is within the noise"
            if verdict.p is not None and verdict.p < alpha:
                within += f" once {len(tested)} pairs are compared"
            verdict = replace(verdict, p=p, winner=None, reason=within)
        found.append(verdict)
    return found


def _t_cdf(t: float, df: float) -> float:
    from scipy.special import stdtr

    return float(stdtr(df, t))


def _exp(y: float) -> float:
    return math.exp(max(min(y, 700.0), -700.0))  # and its inverse is finite
