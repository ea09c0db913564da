"""The trace is tested against its own stated error, and for coverage over many seeds."""

import math
from dataclasses import astuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from curvature.linalg import LinearOperator, TraceEstimate, hutchinson_trace
from curvature.linalg.random_vectors import rademacher, random_unit
from tests.cases import Case, case_named, counted, failing_at, for_each_case, symmetric
from tests.conftest import seeded


@for_each_case
def test_trace_lies_within_four_standard_errors(case: Case) -> None:
    for seed in range(5):
        estimate = hutchinson_trace(case.operator, generator=seeded(seed), max_passes=100)
        error = abs(estimate.value - case.trace)
        assert error <= 4 * estimate.standard_error + case.operator.size * case.rounding


def coverage(A: LinearOperator, trace: float, *, seeds: int, **options: float) -> float:
    hits = 0
    for seed in range(seeds):
        low, high = hutchinson_trace(A, generator=seeded(seed), **options).interval()
        hits += low <= trace <= high
    return hits / seeds


def test_interval_covers_95_percent_at_a_fixed_number_of_passes() -> None:
    A = LinearOperator.from_matrix(symmetric(*range(1, 31)))
    share = coverage(A, 465.0, seeds=800, rtol=0.0, max_passes=10)
    assert 0.93 <= share <= 0.97  # 2.6 standard deviations of the count


@pytest.mark.parametrize("rtol", [0.02, 0.05])  # about 30 and 8 passes
def test_interval_covers_nearly_as_much_when_it_stops_by_itself(rtol: float) -> None:
    A = LinearOperator.from_matrix(symmetric(*range(1, 31)))
    share = coverage(A, 465.0, seeds=600, rtol=rtol)
    assert share >= 0.925


def test_the_promised_tolerance_holds_in_95_percent_of_runs() -> None:
    A = LinearOperator.from_matrix(symmetric(*range(1, 31)))
    runs = [hutchinson_trace(A, generator=seeded(seed), rtol=0.02) for seed in range(500)]
    assert all(run.converged for run in runs)
    assert sum(abs(run.value - 465) <= 1.96 * 0.02 * 465 for run in runs) >= 0.93 * len(runs)


def test_every_term_has_its_own_probe() -> None:
    M = symmetric(3.0, 2.0, -1.0)
    A = LinearOperator.from_matrix(M, -M)  # one probe for both would give exactly zero
    estimate = hutchinson_trace(A, generator=seeded(), max_passes=50)
    assert any(abs(sample) > 0.1 for sample in estimate.samples)


def test_zero_operator_has_converged_to_zero() -> None:
    estimate = hutchinson_trace(case_named("zero").operator, generator=seeded())
    assert astuple(estimate)[:4] == (0.0, 0.0, 8, True)
    assert estimate.interval() == (0.0, 0.0)


def test_a_diagonal_operator_is_exact_and_stops_at_once() -> None:
    estimate = hutchinson_trace(
        case_named("identity").operator, generator=seeded(), rtol=0.0, min_passes=2
    )
    assert astuple(estimate)[:4] == (14.0, 0.0, 2, True)


def test_a_trace_that_drowns_in_noise_has_not_converged() -> None:
    A = LinearOperator.from_matrix(symmetric(5.0, 1.0, -3.0, -3.0))
    estimate = hutchinson_trace(A, generator=seeded(), max_passes=40)
    assert not estimate.converged
    assert estimate.passes == len(estimate.samples) == 40
    assert hutchinson_trace(A, generator=seeded(), atol=2.0, max_passes=40).converged


def test_max_passes_counts_products() -> None:
    A, calls = counted(case_named("random").operator)
    hutchinson_trace(A, generator=seeded(), max_passes=9)
    assert len(calls) == 9


def test_report_sees_every_pass() -> None:
    seen: list[TraceEstimate] = []
    A = case_named("decaying").operator
    result = hutchinson_trace(A, generator=seeded(), rtol=0.1, report=seen.append)
    assert [estimate.passes for estimate in seen] == list(range(1, result.passes + 1))
    assert seen[-1] == result
    assert seen[0].standard_error == math.inf
    assert seen[0].interval() == (-math.inf, math.inf)


def test_same_seed_same_estimate() -> None:
    A = case_named("many terms").operator
    one, two, other = (hutchinson_trace(A, generator=seeded(s), max_passes=20) for s in (1, 1, 2))
    assert one == two
    assert one.value != other.value


def test_a_product_that_is_not_finite_is_named() -> None:
    A = failing_at(3, case_named("decaying").operator)
    with pytest.raises(FloatingPointError, match="Pass 3 "):
        hutchinson_trace(A, generator=seeded())


def test_interval_is_students() -> None:
    estimate = TraceEstimate(10.0, 2.0, 5, True)
    assert estimate.interval(0.9) == pytest.approx(stats.t.interval(0.9, 4, 10.0, 2.0))
    with pytest.raises(ValueError, match="`level`"):
        estimate.interval(95)


@pytest.mark.parametrize(
    "options", [{"min_passes": 1}, {"max_passes": 7}, {"rtol": -0.1}, {"atol": -1.0}]
)
def test_senseless_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        hutchinson_trace(case_named("zero").operator, generator=seeded(), **options)


@settings(derandomize=True, max_examples=20, deadline=None)
@given(exponent=st.integers(-200, 200), seed=st.integers(0, 99))
def test_scaling_the_operator_scales_the_estimate(exponent: int, seed: int) -> None:
    M, factor = symmetric(8.0, 4.0, -2.0, 1.0), 2.0**exponent
    one, other = (
        hutchinson_trace(LinearOperator.from_matrix(A), generator=seeded(seed), max_passes=30)
        for A in (M, factor * M)
    )
    assert other.value == pytest.approx(factor * one.value, rel=1e-12)
    assert other.standard_error == pytest.approx(factor * one.standard_error, rel=1e-12)
    assert other.passes == one.passes


def test_probes_are_signs_and_starts_are_unit_vectors() -> None:
    A = LinearOperator(lambda v: v, 1000, dtype=torch.float32)
    z = rademacher(A, seeded())
    assert z.dtype == torch.float32
    assert set(z.tolist()) == {-1.0, 1.0}
    assert abs(z.mean().item()) < 0.15
    assert random_unit(A, seeded()).norm().item() == pytest.approx(1, abs=1e-6)
