"""From rows to rows: selection, summaries over seeds, best settings, correlations."""

import math
import random

import pytest
from scipy import stats

from curvature.statistics import (
    at_best,
    best_settings,
    measured_on,
    pair,
    refuse_different,
    select,
    spearman,
    summarize,
    where,
)
from tests.statistics.tables import Row, grid, row, run_columns

RUN = run_columns("sgd", 0.1, 0.0, 0)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"split": "test", "data": "digits"}, "test"),
        ({"split": "val", "data": "digits"}, "val"),
        ({"split": "test", "data": "digits:augment=none"}, "test"),
        ({"split": "test", "data": "cifar10c:/there,severity=3"}, "cifar10c"),
        ({"split": "test", "data": "/x", "data_name": "digits (90 of 100 test images)"}, "test"),
        ({"split": "test", "run.data": None, "data": "cifar10:/d"}, "test"),
        ({"split": "test", "run.data": "cifar10:/d", "data": "cifar10 (2 of 9 images)"}, "test"),
        ({"split": "test", "run.data": "cifar10:/d", "data": "cifar10c-style (generated)"},
         "cifar10c-style"),
    ],
)  # fmt: skip
def test_a_row_says_what_it_was_measured_on(fields: Row, expected: str) -> None:
    assert measured_on({**RUN, **fields}) == expected


def test_generated_corruptions_are_found_by_the_short_name_and_variants_by_spec() -> None:
    there = row(RUN, "accuracy", "test", 0.5, data="cifar10c-style (generated)", analysis="c")
    assert select([there], "accuracy", "cifar10c")[0]["value"] == 0.5
    variants = [
        row(RUN, "trace", "test", float(s), data=f"cifar10c:/d,severity={s}", analysis=f"s{s}",
            data_hash=f"h{s}")
        for s in (1, 5)
    ]  # fmt: skip
    assert select(variants, "trace", "cifar10c:severity=5")[0]["value"] == 5.0
    with pytest.raises(ValueError, match=r"several rows of trace on cifar10c.*`data.*s1 or s5"):
        select(variants, "trace", "cifar10c")
    assert select(variants, "trace", "cifar10c", analysis="s1")[0]["value"] == 1.0


def test_selection_takes_the_last_step_and_the_most_examples() -> None:
    rows = [
        row(RUN, "accuracy", "test", 0.1, step=20),
        row(RUN, "accuracy", "test", 0.2, analysis="a1", examples=50),
        row(RUN, "accuracy", "test", 0.3),
        row(RUN, "accuracy", "test", 0.9, block="corruption=fog"),
        row(RUN, "trace", "test", 7.0, step=20),
    ]
    assert [r["value"] for r in select(rows, "accuracy")] == [0.3]
    assert select(rows, "accuracy", block="corruption=fog")[0]["value"] == 0.9
    with pytest.raises(ValueError, match="at a run's last step"):
        select(rows, "trace")  # an earlier checkpoint's curvature is not this run's


def test_two_exact_numbers_of_the_same_weights_and_data_are_one() -> None:
    rows = [row(RUN, "accuracy", "test", 0.9, analysis=a) for a in ("x", "y")]
    assert len(select(rows, "accuracy")) == 1
    rows[1] |= {"value": 0.8}
    with pytest.raises(ValueError, match="differ in `value`"):
        select(rows, "accuracy")


def test_two_methods_for_one_number_must_be_chosen_from() -> None:
    rows = [
        row(RUN, "trace", "test", 1.0, method="hutchinson", analysis="ours"),
        row(RUN, "trace", "test", 1.1, method="pyhessian", analysis="theirs"),
    ]
    with pytest.raises(ValueError, match=r"`method` \(hutchinson, pyhessian\).*ours or theirs"):
        select(rows, "trace")


@pytest.mark.parametrize(
    ("metric", "on", "message"),
    [
        ("sharpness", "test", "metric `sharpness`; there are accuracy"),
        ("accuracy", "cifar10c", "was measured on `cifar10c`.*there is accuracy on test, val"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(metric: str, on: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select(grid(optimizers=("sgd",), seeds=1), metric, on)


def test_conditions_compare_numbers_as_numbers() -> None:
    rows = [{"run.rho": 0.05, "run.sa_variant": "poster"}, {"run.rho": None}]
    assert where(rows, ["run.rho=5e-2", "run.sa_variant=poster"]) == rows[:1]
    with pytest.raises(ValueError, match=r"No row has run.rho = 3; there are 0.05, nothing"):
        where(rows, ["run.rho=3"])
    with pytest.raises(ValueError, match="no condition"):
        where(rows, ["run.rho"])


def test_a_summary_counts_what_diverged_and_what_is_unconverged() -> None:
    rows = [
        row(run_columns("sgd", 0.1, 0.0, s), "trace", "test", value, converged=value != 4.0)
        for s, value in enumerate([1.0, 4.0, None])
    ]
    (found,) = summarize(rows)
    assert found["value"] == pytest.approx(2.0)  # the geometric mean: they are positive curvatures
    assert (found["n"], found["diverged"], found["unconverged"]) == (2, 1, 1)
    assert found["low"] < 2 < found["high"]
    assert (found["status"], found["converged"]) == ("ok", False)
    (gone,) = summarize([rows[2]])
    assert (gone["value"], gone["status"], gone["n"]) == (None, "diverged", 0)


def test_a_negative_trace_makes_the_mean_arithmetic() -> None:
    rows = [
        row(run_columns("sgd", 0.1, 0.0, s), "trace", "test", v) for s, v in enumerate([-1.0, 4.0])
    ]
    assert summarize(rows)[0]["value"] == 1.5


def test_a_cell_of_runs_that_differ_in_more_than_the_seed_is_refused() -> None:
    rows = [
        row({**run_columns("sam", 0.1, 0.0, s), "run.rho": rho}, "accuracy", "test", 0.5)
        for s, rho in enumerate((0.05, 0.1))
    ]
    with pytest.raises(ValueError, match=r"rows of run.optimizer sam.*differ in `run.rho`"):
        summarize(rows)


@pytest.mark.parametrize(
    ("column", "other"),
    [
        ("method", "pyhessian"),
        ("examples", 50),
        ("data_hash", "another"),
        ("loss", "mse"),
        ("dtype", "float64"),
        ("batchnorm", "train"),
        ("split", "val"),
        ("run.epochs", 200),
        ("run.data", "digits:augment=crop"),
    ],
)
def test_rows_that_were_measured_differently_are_refused_by_name(column: str, other: str) -> None:
    rows = [row(run_columns(o, 0.1, 0.0, 0), "loss", "test", 0.5) for o in ("sgd", "sam")]
    rows[1][column] = other
    with pytest.raises(ValueError, match=f"differ in `{column}`"):
        refuse_different(rows, free=("run.optimizer", "run.rho"))


def test_where_data_lie_is_no_difference_and_nor_is_the_amount_of_counted_decay() -> None:
    rows = [row(run_columns("sgd", 0.1, d, 0), "loss", "test", 0.5) for d in (0.0, 0.1, 0.2)]
    for i, each in enumerate(rows):
        each |= {"run.data": f"cifar10:/place{i}", "data": f"cifar10:/place{i}"}
        each |= {"weight_decay_counted": each["run.weight_decay"]}
    refuse_different(rows, free=("run.weight_decay",))
    rows[2]["weight_decay_counted"] = 0.0
    with pytest.raises(ValueError, match="weight_decay_counted"):
        refuse_different(rows, free=("run.weight_decay",))


def test_the_best_setting_is_chosen_by_validation_and_never_by_the_test() -> None:
    rows = []
    for lr, val, test in ((0.1, 0.90, 0.99), (0.2, 0.95, 0.80), (0.3, 0.99, 0.99)):
        for seed in range(3):
            run = run_columns("sgd", lr, 0.0, seed)
            lost = lr == 0.3 and seed > 0  # a lucky survivor
            rows.append(row(run, "accuracy", "val", None if lost else val))
            rows.append(row(run, "accuracy", "test", None if lost else test))
    (best,) = best_settings(rows)
    assert (best["run.lr"], best["value"], best["n"]) == (0.2, pytest.approx(0.95), 3)
    assert (best["settings"], best["candidates"]) == (3, 2)
    assert {r["run.lr"] for r in at_best(rows, [best])} == {0.2}
    with pytest.raises(ValueError, match="chosen by accuracy, loss"):
        best_settings(rows, metric="trace")


def test_the_best_decay_for_each_rate_can_be_asked_for() -> None:
    rows = grid(optimizers=("sgd", "sam"), seeds=2)
    by = ("run.optimizer", "run.lr")
    found = best_settings(rows, by=by)
    assert len({tuple(r[name] for name in by) for r in found}) == len(found)
    table = summarize(select(at_best(rows, found, by=by), "accuracy"))
    assert len(table) == len(found)


def test_the_rank_correlation_is_that_of_scipy_with_ties() -> None:
    draw = random.Random(0)
    x = [draw.randrange(6) for _ in range(30)]
    y = [a + draw.gauss(0, 3) for a in x]
    found = spearman(x, y)
    assert found.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.low is not None
    assert found.low < found.value < found.high


def test_the_interval_of_a_correlation_covers_it() -> None:
    draw = random.Random(1)
    rho = 0.6
    of_ranks = 6 / math.pi * math.asin(rho / 2)
    trials, hits = 800, 0
    for _ in range(trials):
        x = [draw.gauss(0, 1) for _ in range(20)]
        y = [rho * a + math.sqrt(1 - rho**2) * draw.gauss(0, 1) for a in x]
        found = spearman(x, y)
        hits += found.low <= of_ranks <= found.high
    assert 0.92 <= hits / trials <= 0.985


def test_correlations_of_too_little_have_no_interval() -> None:
    assert spearman([1, 2, 3], [1, 3, 2]).low is None
    assert spearman([1, 1, 1], [1, 3, 2]).value is None
    assert spearman([], []).value is None
    with pytest.raises(ValueError, match="needs pairs, got 1 and 2"):
        spearman([1], [1, 2])


def test_a_pair_is_a_setting_and_not_a_seed() -> None:
    rows = grid(optimizers=("sgd", "sam"), rates=(0.01, 0.1), decays=(0.0, 1e-3), seeds=3)
    found = pair(rows, "eigmax")
    points = [r for r in found if "x" in r]
    gone = sum(r["value"] is None for r in summarize(select(rows, "eigmax")))
    assert len(points) == 8 - gone
    assert {r["n"] for r in found if r.get("metric") == "rank_correlation"} <= {8 - gone, 4, 3, 2}
