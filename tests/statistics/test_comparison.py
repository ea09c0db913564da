"""Verdicts that are never given inside the noise."""

import random
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from curvature.statistics import compare
from tests.statistics.tables import Row, normal_rows, row, run_columns


def two(metric: str, a: list[float | None], b: list[float | None], **fields: object) -> list[Row]:
    return [
        row(run_columns(name, 0.1, 0.0, s), metric, "test", value, **fields)
        for name, values in (("sgd", a), ("sam", b))
        for s, value in enumerate(values)
    ]


def test_p_value_and_interval_are_those_of_welch() -> None:
    a, b = [0.91, 0.93, 0.92, 0.90], [0.95, 0.96, 0.955]
    (found,) = compare(two("accuracy", a, b))
    theirs = stats.ttest_ind(a, b, equal_var=False)
    interval = theirs.confidence_interval(0.95)
    assert found.value == pytest.approx(np.mean(a) - np.mean(b))
    assert found.p == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.winner == "sam"
    assert str(found) == "sam is more accurate than sgd"


def test_curvatures_are_compared_by_their_ratio() -> None:
    (found,) = compare(two("eigmax", [100.0, 110.0, 90.0], [10.0, 11.0, 9.0]))
    assert found.ratio
    assert found.value == pytest.approx(10)
    assert found.low > 1
    assert str(found) == "sam is flatter than sgd"


def test_same_populations_are_called_different_in_one_of_twenty_at_most() -> None:
    draw = random.Random(0)
    trials, wrong = 400, 0
    for _ in range(trials):
        rows = [
            each
            for name in ("sgd", "msgd", "adam", "sam")
            for each in normal_rows(name, "accuracy", 0.9, 0.01, 3, draw=draw)
        ]
        wrong += any(verdict.winner for verdict in compare(rows))
    assert wrong / trials <= 0.075  # Holm keeps the six pairs together below 0.05


def test_what_the_correction_takes_away_is_said() -> None:
    rows = two("accuracy", [0.90, 0.91, 0.92], [0.93, 0.94, 0.95])
    (alone,) = compare(rows)
    assert alone.winner == "sam"
    draw = random.Random(0)
    for name in ("adam", "msgd", "sa-sgd"):
        rows += normal_rows(name, "accuracy", 0.925, 0.02, 3, draw=draw)
    verdict = next(v for v in compare(rows) if (v.a, v.b) == ("sgd", "sam"))
    assert verdict.winner is None
    assert "once 10 pairs are compared" in str(verdict)


def test_one_seed_never_decides() -> None:
    (found,) = compare(two("trace", [1e9], [1.0, 1.1, 0.9]))
    assert found.winner is None
    assert "sgd has one seed" in str(found)


def test_seeds_that_are_all_alike_say_nothing_of_the_noise() -> None:
    (found,) = compare(two("accuracy", [0.9, 0.9, 0.9], [0.8, 0.8, 0.8]))
    assert found.winner is None
    assert "all alike" in str(found)


def test_the_estimates_own_error_is_noise() -> None:
    values = ([1.0, 1.001, 1.002], [1.1, 1.101, 1.102])
    assert compare(two("trace", *values))[0].winner == "sgd"
    assert compare(two("trace", *values, standard_error=0.2))[0].winner is None


def test_a_residual_widens_the_interval() -> None:
    values = ([1.0, 1.001, 1.002], [1.1, 1.101, 1.102])
    assert compare(two("eigmax", *values, residual=0.01))[0].winner == "sgd"
    assert compare(two("eigmax", *values, residual=0.06))[0].winner is None


def test_unconverged_values_that_nothing_bounds_decide_nothing() -> None:
    rows = two("eigmax", [1.0, 1.1, 1.2], [9.0, 9.1, 9.2])
    rows[0] |= {"converged": False}
    assert "1 of sgd's values did not converge" in str(compare(rows)[0])


def test_a_negative_trace_is_lower_but_not_flatter() -> None:
    (found,) = compare(two("trace", [-9.0, -9.1, -9.2], [1.0, 1.1, 1.2]))
    assert str(found) == "sgd is lower in trace than sam"


def test_an_optimizer_that_always_diverged_wins_nothing() -> None:
    (found,) = compare(two("trace", [None, None], [1.0, 1.1]))
    assert str(found).endswith("(no run of sgd has a value)")


def test_a_trace_that_is_split_may_get_its_parts_in_another_way() -> None:
    rows = two("trace", [1.0, 1.1], [1.0, 1.1])
    for i, each in enumerate(rows):
        each |= {"method": f"split: tr(G) by signs, tr(H−G) {('= 0 shown', 'by probes')[i % 2]}"}
    assert compare(rows)
    rows[0] |= {"method": "hutchinson"}
    with pytest.raises(ValueError, match="differ in `method`"):
        compare(rows)


def test_rows_of_another_provenance_are_refused() -> None:
    rows = two("trace", [1.0, 1.1], [1.0, 1.1])
    rows[-1] |= {"method": "pyhessian"}
    with pytest.raises(ValueError, match="differ in `method`"):
        compare(rows)
    rows = two("trace", [1.0, 1.1], [1.0, 1.1])
    rows[1] |= {"run.lr": 0.5}
    with pytest.raises(ValueError, match=r"rows of sgd differ in `run.lr`"):
        compare(rows)


def test_metrics_are_not_mixed() -> None:
    rows = two("trace", [1.0], [1.0]) + two("loss", [1.0], [1.0])
    with pytest.raises(ValueError, match="got loss, trace"):
        compare(rows)


def test_every_pair_is_compared_once() -> None:
    draw = random.Random(3)
    names = ("sgd", "msgd", "adam", "sam")
    rows = [r for name in names for r in normal_rows(name, "loss", 1.0, 0.1, 3, draw=draw)]
    assert [(v.a, v.b) for v in compare(rows)] == list(combinations(names, 2))
