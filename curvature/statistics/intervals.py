"""The mean over seeds with its confidence interval.

Below `BOOTSTRAP_FROM` values a Student t-interval, since a bootstrap of few covers too little: of
95 % intervals of normal samples (1,500 trials) t covered 95, 96, 95 % for n = 3, 5, 10; BCa 73,
85, 91 %, percentile 76, 84, 91 %. For log-normal samples (σ = 0.7) t was ahead up to n = 20, too.
References: Efron 1987 (BCa); Tukey & McLaughlin 1963, Yuen 1974 (the interquartile mean);
Agarwal et al. 2021 (why the interquartile mean over seeds).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch

STATISTICS = ("mean", "iqm", "geometric")
BOOTSTRAP_FROM = 20

_LARGEST = 709.0  # exp of more overflows
_RESAMPLES = 2000
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """A statistic over ``n`` values; one value has no interval, and ``method`` says so."""

    value: float
    low: float | None
    high: float | None
    n: int
    method: str


def interval(
    values: Sequence[float],
    *,
    statistic: str = "mean",
    confidence: float = 0.95,
    generator: torch.Generator | None = None,
) -> Interval:
    """Estimate the mean, interquartile mean (iqm) or geometric mean of a population of seeds.

    ``generator`` draws the bootstrap's resamples; without one they are those of the seed 0.
    """
    if statistic not in STATISTICS:
        raise ValueError(f"`statistic` is one of {', '.join(STATISTICS)}, not `{statistic}`.")
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` lies between 0 and 1, not at {confidence}.")
    x = np.asarray(values, dtype=np.float64)
    if not len(x) or not np.isfinite(x).all():
        raise ValueError(
            f"A mean needs finite values, got {len(x)} with {_bad(x)} NaN or infinite."
        )
    if statistic == "geometric" and (x <= 0).any():
        raise ValueError(f"A geometric mean needs positive values, got {x.min():g}.")

    y = np.log(x) if statistic == "geometric" else x
    middle = _iqm if statistic == "iqm" else _mean
    low, high, method = _bounds(y, middle, confidence, generator)
    name = {"mean": "mean", "iqm": "interquartile mean", "geometric": "geometric mean"}[statistic]
    back = _exp if statistic == "geometric" else float
    return Interval(
        back(float(middle(y[None])[0])),
        None if low is None else back(low),
        None if high is None else back(high),
        len(x),
        f"{name}, {method}",
    )


def t_quantile(p: float, df: float) -> float:
    """The p-quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(df, p))


def _bounds(
    y: Any, middle: Callable[[Any], Any], confidence: float, generator: torch.Generator | None
) -> tuple[float | None, float | None, str]:
    n = len(y)
    if n == 1:
        return None, None, "one seed: no interval"
    if n >= BOOTSTRAP_FROM:
        low, high = _bca(y, middle, confidence, generator)
        return low, high, "BCa bootstrap"
    center = float(middle(y[None])[0])
    error, df = _error_of_iqm(y) if middle is _iqm else (_spread(y) / math.sqrt(n), n - 1)
    half = t_quantile(0.5 + confidence / 2, df) * error
    return center - half, center + half, "t-interval"


def _mean(y: Any) -> Any:
    return y.mean(axis=-1)


def _iqm(y: Any) -> Any:
    """The mean of the middle half: of n sorted values ⌊n/4⌋ are left out at either end."""
    cut = y.shape[-1] // 4
    return np.sort(y, axis=-1)[..., cut : y.shape[-1] - cut].mean(axis=-1)


def _error_of_iqm(y: Any) -> tuple[float, int]:
    n, cut = len(y), len(y) // 4
    kept = n - 2 * cut
    ordered = np.sort(y)
    winsorized = np.clip(y, ordered[cut], ordered[n - 1 - cut])
    return _spread(winsorized) * math.sqrt((n - 1) / (kept * (kept - 1))), kept - 1


def _bca(
    y: Any, middle: Callable[[Any], Any], confidence: float, generator: torch.Generator | None
) -> tuple[float, float]:
    n = len(y)
    generator = generator or torch.Generator().manual_seed(0)
    chosen = torch.randint(n, (_RESAMPLES, n), generator=generator).numpy()
    resampled = np.sort(middle(y[chosen]))
    center = middle(y[None])[0]
    below = ((resampled < center).mean() + (resampled <= center).mean()) / 2
    bias = _NORMAL.inv_cdf(min(max(below, 1 / _RESAMPLES), 1 - 1 / _RESAMPLES))
    left_out = np.array([middle(np.delete(y, i)[None])[0] for i in range(n)])
    d = left_out.mean() - left_out
    scale = float((d**2).sum()) ** 1.5
    skew = float((d**3).sum()) / (6 * scale) if scale > 0 else 0.0
    tails = [_NORMAL.inv_cdf(0.5 + sign * confidence / 2) for sign in (-1, 1)]
    levels = [_NORMAL.cdf(bias + (bias + z) / (1 - skew * (bias + z))) for z in tails]
    low, high = np.quantile(resampled, levels)
    return float(low), float(high)


def _spread(y: Any) -> float:
    return float(y.std(ddof=1))


def _exp(y: float) -> float:
    return math.exp(min(y, _LARGEST))


def _bad(x: Any) -> int:
    return int((~np.isfinite(x)).sum())
