"""Intervals that keep what they promise, by simulation and against scipy."""

import math
import random

import numpy as np
import pytest
from scipy import stats

from curvature.statistics import interval
from tests.conftest import seeded


def test_the_t_interval_is_that_of_scipy() -> None:
    x = [3.0, 4.5, 4.0]
    found = interval(x)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(x), scale=stats.sem(x))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.value, found.n) == (pytest.approx(np.mean(x)), 3)
    assert "t-interval" in found.method


def test_the_bootstrap_is_that_of_scipy_within_its_noise() -> None:
    x = np.random.default_rng(0).lognormal(size=30)
    found = interval(x.tolist(), generator=seeded(1))
    theirs = stats.bootstrap((x,), np.mean, method="BCa", rng=np.random.default_rng(0))
    assert "BCa" in found.method
    assert found.low == pytest.approx(theirs.confidence_interval.low, rel=0.03)
    assert found.high == pytest.approx(theirs.confidence_interval.high, rel=0.05)
    assert found == interval(x.tolist(), generator=seeded(1))
    assert found != interval(x.tolist(), generator=seeded(2))


@pytest.mark.parametrize(("statistic", "n"), [("mean", 3), ("iqm", 5), ("geometric", 3)])
def test_few_seeds_are_covered_as_promised(statistic: str, n: int) -> None:
    draw = random.Random(0)
    trials, hits = 1500, 0
    for _ in range(trials):
        x = [draw.gauss(0, 1) for _ in range(n)]
        found = interval(
            [math.exp(v) for v in x] if statistic == "geometric" else x, statistic=statistic
        )
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= (1.0 if statistic == "geometric" else 0.0) <= found.high
    assert 0.93 <= hits / trials <= 0.985


def test_one_seed_has_no_interval_and_says_so() -> None:
    found = interval([2.0])
    assert (found.value, found.low, found.high, found.n) == (2.0, None, None, 1)
    assert "one seed" in found.method


def test_the_geometric_mean_bears_values_over_decades() -> None:
    found = interval([1e-2, 1e24], statistic="geometric")
    assert found.value == pytest.approx(1e11)
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low < 1e-2 < 1e24 < found.high < math.inf


def test_the_interquartile_mean_leaves_out_an_outlier() -> None:
    assert interval([1, 2, 3, 4, 1e9], statistic="iqm").value == pytest.approx(3)
    assert interval([1.0, 2.0, 6.0], statistic="iqm").value == pytest.approx(3)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "finite values, got 0"),
        ([1.0, math.nan], {}, "got 2 with 1 NaN"),
        ([1.0, -1.0], {"statistic": "geometric"}, "needs positive values, got -1"),
        ([1.0], {"statistic": "median"}, "one of mean, iqm, geometric"),
        ([1.0], {"confidence": 95}, "between 0 and 1"),
    ],
)
def test_what_has_no_mean_is_refused(values: list[float], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interval(values, **options)
