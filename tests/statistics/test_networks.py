"""What is said of single networks: never inside the noise, however their errors hang together."""

import math
import random
from typing import Any

import pytest
from scipy import stats

from curvature.statistics.bounds import FEWEST_DEGREES, bounds
from curvature.statistics.networks import Difference, differences

Row = dict[str, Any]


def measured(name: str, metric: str, value: float | None, **fields: Any) -> Row:
    about = {"data_hash": "d", "split": "test", "examples": 400, "dtype": "float64"}
    about |= {"loss": "cross_entropy", "reduction": "mean", "batchnorm": "eval", "tf32": False}
    errors = {"standard_error": None, "residual": None, "sampling_error": None}
    state = {"converged": True, "status": "ok", "method": "exact"}
    return {"name": name, "metric": metric, "value": value, **about, **errors, **state, **fields}


def pair(metric: str, a: float | None, b: float | None, **fields: Any) -> Difference:
    """Of b against a."""
    (found,) = differences([measured("a", metric, a, **fields), measured("b", metric, b, **fields)])
    return found


def test_a_ratio_lies_in_what_both_intervals_allow() -> None:
    found = pair("trace", 10.0, 20.0, standard_error=0.5, method="split")
    half = 0.5 * stats.t.ppf(1 - 0.05 / 4, FEWEST_DEGREES)
    assert found.ratio
    assert (found.value, found.low) == pytest.approx((2.0, (20 - half) / (10 + half)))
    assert found.high == pytest.approx((20 + half) / (10 - half))
    assert str(found) == "b is higher than a in trace (on these examples)"


@pytest.mark.parametrize("shared", [-1.0, 0.0, 1.0])
def test_equal_networks_are_called_different_in_one_of_twenty_at_most(shared: float) -> None:
    draw = random.Random(0)
    wrong, trials = 0, 400
    for _ in range(trials):
        first = draw.gauss(0, 1)
        noise = [first] + [
            shared * first + math.sqrt(1 - shared**2) * draw.gauss(0, 1) for _ in range(3)
        ]
        rows = [
            measured(f"{i}", "trace", 100 + e, standard_error=1.0, passes=40, method="hutchinson")
            for i, e in enumerate(noise)
        ]
        wrong += any(found.word for found in differences(rows))
    assert wrong / trials <= 0.05


@pytest.mark.parametrize(
    ("fields", "word", "reason"),
    [
        ({"standard_error": 0.1, "sampling_error": 0.2}, "flatter", ""),
        ({"standard_error": 0.1}, "lower", "on these examples"),
        ({"standard_error": 0.1, "sampling_error": 4.0}, "lower", "on these examples only"),
        ({"standard_error": 3.0}, "", "within the noise of the estimates"),
        ({"method": "split"}, "", "no error is known of b's"),
        ({"standard_error": 0.1, "converged": False}, "lower", "on these examples"),
    ],
)
def test_flatter_is_said_of_a_lower_trace_only_outside_the_noise(
    fields: Row, word: str, reason: str
) -> None:
    found = pair("trace", 20.0, 10.0, **{"method": "split", **fields})
    assert (found.word, found.reason) == (word, reason)


@pytest.mark.parametrize(
    ("fields", "word", "reason"),
    [
        ({"residual": 0.1}, "lower", "on these examples"),
        ({"residual": 4.0}, "", "within the noise of the estimates"),
        ({"residual": 0.1, "converged": False}, "", "b's did not converge"),
        ({}, "", "no error is known of b's"),
    ],
)
def test_an_eigenvalue_is_as_sure_as_its_residual(fields: Row, word: str, reason: str) -> None:
    found = pair("eigmax", 20.0, 13.0, **{"method": "lanczos", **fields})
    assert (found.word, found.reason) == (word, reason)


def test_what_rounding_may_do_is_no_difference() -> None:
    alike = {"residual": 1e-9, "dtype": "float32"}
    assert pair("eigmax", 1.0, 1.0001, **alike).word == ""
    assert pair("trace", 1.0, 1.0001, standard_error=0.0, dtype="float32").word == ""
    assert pair("trace", 1.0, 1.0001, standard_error=0.0, dtype="float64").word == "higher"
    assert pair("eigmax", 1.0, 1.01, residual=1e-9, products_error=0.01).word == ""


def test_an_error_that_is_infinite_is_unknown() -> None:
    one_example = {"standard_error": 0.1, "sampling_error": math.inf, "method": "split"}
    found = pair("trace", 20.0, 10.0, **one_example)
    assert (found.wide_low, found.word, found.reason) == (None, "lower", "on these examples")
    assert pair("trace", 20.0, 10.0, standard_error=math.inf).low is None


def test_a_negative_trace_is_lower_but_not_flatter() -> None:
    found = pair("trace", 5.0, -5.0, standard_error=0.1, method="split")
    assert (found.ratio, found.value, found.word) == (False, -10.0, "lower")


def test_a_trace_that_may_be_zero_has_no_ratio() -> None:
    assert not pair("trace", 5.0, 1.0, standard_error=1.0, method="split").ratio


def test_accuracies_are_compared_example_by_example() -> None:
    a = [True] * 300 + [False] * 100
    b = [True] * 320 + [False] * 80  # right wherever a is, and on twenty more
    rows = [measured("a", "accuracy", 0.75), measured("b", "accuracy", 0.8)]
    for row in rows:
        row["sampling_error"] = math.sqrt(row["value"] * (1 - row["value"]) / 400)
    (paired,) = differences(rows, hits={"a": a, "b": b})
    (unpaired,) = differences(rows)
    only_a, only_b = 1 / 402, 21 / 402
    half = 1.959964 * math.sqrt((only_a + only_b - (only_b - only_a) ** 2) / 402)
    assert paired.low == pytest.approx(only_b - only_a - half)
    assert str(paired) == "b is more accurate than a in accuracy"
    assert (unpaired.word, unpaired.reason) == ("", "within the noise of the examples")


@pytest.mark.parametrize(("hits", "n"), [(400, 400), (390, 400), (7, 10), (0, 50)])
def test_an_accuracy_has_wilsons_interval(hits: int, n: int) -> None:
    p = hits / n
    row = measured("a", "accuracy", p, examples=n, sampling_error=math.sqrt(p * (1 - p) / n))
    found = bounds(row)
    theirs = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert (found.wide_low, found.wide_high) == pytest.approx((theirs.low, theirs.high))
    assert (found.low, found.high) == (p, p)


def test_what_diverged_or_was_not_measured_is_told_and_not_compared() -> None:
    rows = [
        measured("a", "trace", None, status="diverged"),
        measured("b", "trace", 1.0, standard_error=0.1, method="split"),
        measured("c", "trace", 9.0, standard_error=0.1, method="split"),
        measured("c", "loss", 1.0),
        measured("b", "loss", 2.0),
    ]
    found = {(d.metric, d.name): d for d in differences(rows)}
    assert {d.against for d in found.values()} == {"b"}  # the first that has a value
    assert found["trace", "a"].reason == "a diverged"
    assert found["trace", "c"].word == "higher"
    assert found["loss", "a"].reason == "a was not measured"
    assert found["loss", "c"].word == "lower"


def test_a_network_to_be_held_against_is_chosen() -> None:
    rows = [measured(n, "loss", v) for n, v in (("a", 1.0), ("b", 2.0), ("c", 3.0))]
    assert [(d.name, d.against) for d in differences(rows, against="c")] == [("a", "c"), ("b", "c")]
    with pytest.raises(ValueError, match="no network d; there are a, b, c"):
        differences(rows, against="d")


@pytest.mark.parametrize(
    ("metric", "change"),
    [
        ("trace", {"data_hash": "e"}),
        ("accuracy", {"data_hash": "e"}),
        ("trace", {"split": "train"}),
        ("trace", {"examples": 200}),
        ("trace", {"loss": "mse"}),
        ("trace", {"reduction": "sum"}),
        ("trace", {"batchnorm": "train"}),
        ("trace", {"dtype": "float32"}),
        ("trace", {"tf32": True}),
        ("trace", {"params": "layer3.*"}),
        ("trace", {"weight_decay_counted": 0.1}),
        ("trace", {"block": "corruption=fog"}),
        ("eigmax", {"method": "pyhessian"}),
    ],
)
def test_what_was_measured_differently_is_refused_by_the_field(metric: str, change: Row) -> None:
    rows = [measured("a", metric, 0.5), {**measured("b", metric, 0.6), **change}]
    (field,) = change
    with pytest.raises(
        ValueError, match=rf"{metric} was measured differently: `{field}` is .* a, "
    ):
        differences(rows)


@pytest.mark.parametrize(
    ("metric", "change"),
    [
        ("trace", {"seed": 7}),
        ("trace", {"device": "cuda", "batch_size": 64}),
        ("trace", {"model": "vgg19", "parameters": 20_000_000}),
        ("trace", {"method": "hutchinson"}),
        ("trace", {"tf32": None}),
        ("eigmax", {"method": "power iteration"}),
        ("accuracy", {"loss": "mse", "weight_decay_counted": 0.1}),
        ("trace", {"data": "the same bytes elsewhere"}),
        ("trace", {"value": None, "status": "diverged", "data_hash": None}),
    ],
)
def test_what_does_not_change_the_meaning_is_free(metric: str, change: Row) -> None:
    rows = [measured("a", metric, 0.5), {**measured("b", metric, 0.6), **change}]
    assert len(differences(rows)) == 1
