"""Eigenvalues against LAPACK's, and every stated error against the true one."""

import math
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curvature.linalg import EigenEstimate, LinearOperator, lanczos
from tests.cases import Case, case_named, counted, failing_at, for_each_case, symmetric
from tests.conftest import seeded

RTOL = 1e-3


def assert_truthful(case: Case, estimates: tuple[EigenEstimate, ...], expected: Any) -> None:
    """Values within their errors, converged ones within RTOL, residuals and vectors real."""
    for estimate, eigenvalue in zip(estimates, expected, strict=True):
        error = abs(estimate.value - eigenvalue)
        assert error <= estimate.error + case.rounding
        if estimate.converged:
            assert error <= max(RTOL * abs(eigenvalue) * 1.001, case.rounding)
        v = estimate.vector.double()
        residual = (case.matrix @ v - estimate.value * v).norm().item()
        assert residual <= estimate.residual * 1.01 + 0.1 * case.rounding
        assert abs(v.norm().item() - 1) < 1e-5
    vectors = torch.stack([estimate.vector.double() for estimate in estimates])
    identity = torch.eye(len(vectors), dtype=torch.float64)
    torch.testing.assert_close(vectors @ vectors.T, identity, rtol=0, atol=1e-5)


@for_each_case
def test_largest_and_smallest_eigenvalue_over_seeds(case: Case) -> None:
    for seed in range(10):
        (top,) = lanczos(case.operator, generator=seeded(seed))
        (bottom,) = lanczos(case.operator, generator=seeded(seed), which="smallest")
        assert top.converged
        assert_truthful(case, (top,), case.eigenvalues[:1])
        assert_truthful(case, (bottom,), case.eigenvalues[-1:])


@for_each_case
@pytest.mark.parametrize("k", [2, 5])
def test_top_k_with_multiplicities(case: Case, k: int) -> None:
    k = min(k, case.operator.size)
    for seed in range(3):
        found = lanczos(case.operator, generator=seeded(seed), k=k, max_products=300)
        assert all(estimate.converged for estimate in found)
        assert_truthful(case, found, case.eigenvalues[:k])


def test_all_eigenvalues_of_a_small_operator() -> None:
    case = case_named("repeated top")
    largest = lanczos(case.operator, generator=seeded(), k=3)
    smallest = lanczos(case.operator, generator=seeded(), k=3, which="smallest")
    assert [e.value for e in largest] == pytest.approx([5, 5, 4])
    assert [e.value for e in smallest] == pytest.approx([4, 5, 5])


@settings(derandomize=True, max_examples=40, deadline=None)
@given(
    eigenvalues=st.lists(st.integers(-4, 4), min_size=1, max_size=12),
    k=st.integers(1, 12),
    which=st.sampled_from(["largest", "smallest"]),
)
def test_integer_spectra(
    eigenvalues: list[int], k: int, which: Literal["largest", "smallest"]
) -> None:
    A = LinearOperator.from_matrix(symmetric(*eigenvalues))
    k = min(k, len(eigenvalues))
    found = lanczos(A, generator=seeded(k), k=k, which=which)
    expected = sorted(eigenvalues, reverse=which == "largest")[:k]
    assert [e.value for e in found] == pytest.approx(expected, rel=RTOL, abs=1e-12)
    assert all(e.converged for e in found)


def test_the_error_holds_as_often_as_the_confidence_says() -> None:
    case = Case("small", (case_named("random").matrix[:40, :40],))
    top = case.eigenvalues[0]
    for confidence, seeds in ((0.5, 80), (0.99, 120)):
        runs = [
            lanczos(case.operator, generator=seeded(s), confidence=confidence)[0]
            for s in range(seeds)
        ]
        inside = sum(abs(run.value - top) <= run.error for run in runs)
        assert inside >= confidence * seeds - 2


def test_the_error_holds_from_a_start_that_has_no_part_in_the_top_vector() -> None:
    case = Case("small", (case_named("random").matrix[:40, :40],))
    start = torch.linalg.eigh(case.matrix).eigenvectors[:, :-1].sum(1)
    inside = 0
    for seed in range(100):
        (run,) = lanczos(case.operator, generator=seeded(seed), start=start, confidence=0.5)
        inside += abs(run.value - case.eigenvalues[0]) <= run.error
    assert inside >= 93  # it is 99, and 86 without regard to how small the random part is


def test_a_residual_alone_would_be_fooled_where_the_bound_is_not() -> None:
    case = case_named("hidden top")  # a random vector is nearly an eigenvector for 9
    start = torch.ones(100, dtype=torch.float64)
    trusting = [
        lanczos(case.operator, generator=seeded(s), confidence=0)[0].value for s in range(20)
    ]
    wary = [lanczos(case.operator, generator=seeded(s))[0].value for s in range(20)]
    assert min(trusting) < 9.9
    assert wary == pytest.approx([10.0] * 20, rel=RTOL)
    assert lanczos(case.operator, generator=seeded(), start=start)[0].value == pytest.approx(10.0)


@pytest.mark.parametrize("confidence", [0.0, 0.99])
def test_a_start_at_another_eigenvector_misleads_only_where_nothing_is_looked_for(
    confidence: float,
) -> None:
    case = case_named("like a network's")
    second = torch.linalg.eigh(case.matrix).eigenvectors[:, -2]
    (found,) = lanczos(case.operator, generator=seeded(), start=second, confidence=confidence)
    assert found.value == pytest.approx(216.75 if confidence else 120.0, rel=RTOL)
    assert found.confidence == confidence


def test_a_near_start_saves_products() -> None:
    case = case_named("like a network's")
    v = torch.linalg.eigh(case.matrix).eigenvectors[:, -1]
    start = v + 0.005 * torch.randn(len(v), generator=seeded(), dtype=v.dtype)
    (cold,) = lanczos(case.operator, generator=seeded())
    (warm,) = lanczos(case.operator, generator=seeded(), start=start, confidence=0)
    assert_truthful(case, (warm,), case.eigenvalues[:1])
    assert warm.converged
    assert warm.products <= 3 < cold.products


@pytest.mark.parametrize("k", [1, 4])
def test_few_vectors_in_memory_find_the_same(k: int) -> None:
    case = case_named("negative and clustered")
    found = lanczos(case.operator, generator=seeded(), k=k, max_basis=2 * k + 10, max_products=500)
    assert all(estimate.converged for estimate in found)
    assert_truthful(case, found, case.eigenvalues[:k])


@pytest.mark.parametrize("max_products", [1, 3, 10])
def test_too_few_products_are_respected_and_reported(max_products: int) -> None:
    case = case_named("random")
    A, calls = counted(case.operator)
    (found,) = lanczos(A, generator=seeded(), max_products=max_products)
    assert len(calls) == found.products == max_products
    assert not found.converged
    assert_truthful(case, (found,), case.eigenvalues[:1])


def test_what_is_known_of_several_when_products_run_out() -> None:
    case = case_named("random")
    for max_products in (5, 20, 60):
        found = lanczos(case.operator, generator=seeded(), k=5, max_products=max_products)
        assert len(found) == 5
        assert not found[-1].converged
        assert_truthful(case, found, case.eigenvalues[:5])


@pytest.mark.parametrize("name", ["float32", "huge, float32", "tiny, float32"])
def test_float32_stops_at_its_own_rounding(name: str) -> None:
    case = case_named(name)
    A, calls = counted(case.operator)
    (found,) = lanczos(A, generator=seeded(), rtol=0.0)
    assert found.converged
    assert len(calls) < 40
    assert abs(found.value - case.eigenvalues[0]) <= case.rounding
    assert found.residual > 0


@pytest.mark.parametrize("seed", range(5))
def test_what_rounding_hides_is_not_called_converged(seed: int) -> None:
    true = torch.tensor([1e5, 0.8, 0.7, 0.3, *[0.1] * 16], dtype=torch.float64)
    Q, _ = torch.linalg.qr(torch.randn(20, 20, generator=seeded(seed), dtype=torch.float64))
    H = ((Q * true) @ Q.T).float()
    noise = 1e-2 * torch.randn(20, 20, generator=seeded(seed + 9))  # as of sums in single precision
    A = LinearOperator(lambda v: H @ v + noise @ v, 20, dtype=torch.float32)
    found = lanczos(A, generator=seeded(seed), k=3)
    assert found[0].converged
    for estimate, eigenvalue in zip(found, true.tolist(), strict=False):
        assert abs(estimate.value - eigenvalue) <= estimate.error
        assert (
            not estimate.converged
            or estimate.error <= 1e-3 * estimate.value
            or (abs(estimate.value) <= 100 * 2**-23 * 1e5 <= estimate.error * 1.1)
        )


def test_a_small_end_of_the_spectrum_is_reached_in_float32() -> None:
    d = torch.linspace(0, 1, 400)
    d[:3] = torch.tensor([-0.01, -0.004, -0.002])
    A = LinearOperator(lambda v: d * v, len(d), dtype=torch.float32)
    (found,) = lanczos(A, generator=seeded(), which="smallest", max_products=400)
    assert found.converged
    assert found.value == pytest.approx(-0.01, rel=1e-3)


def test_a_million_parameters_in_float32() -> None:
    d = torch.rand(1_000_000, generator=seeded())  # sums of so many squares need float64
    d[:4] = torch.tensor([216.75, 120.0, 90.0, -50.0])
    A = LinearOperator(lambda v: d * v, len(d), dtype=torch.float32)
    for estimate, expected in zip(
        lanczos(A, generator=seeded(), k=3), (216.75, 120, 90), strict=True
    ):
        assert estimate.value == pytest.approx(expected, rel=1e-6)
        residual = (d.double() * estimate.vector - estimate.value * estimate.vector).norm().item()
        assert residual <= 1.01 * estimate.residual


def test_report_sees_every_product() -> None:
    seen: list[tuple[EigenEstimate, ...]] = []
    A = case_named("like a network's").operator
    found = lanczos(A, generator=seeded(), k=3, report=seen.append)
    assert [estimates[0].products for estimates in seen] == list(range(1, found[0].products + 1))
    assert [len(estimates) for estimates in seen[:4]] == [1, 2, 3, 3]
    assert seen[-1] == found


def test_same_seed_same_result() -> None:
    A = case_named("random").operator
    one, two, other = (lanczos(A, generator=seeded(s), k=2, max_products=30) for s in (1, 1, 2))
    assert one == two
    assert torch.equal(one[0].vector, two[0].vector)
    assert one[0].value != other[0].value


@pytest.mark.parametrize("bad", [1, 4])
def test_a_product_that_is_not_finite_is_named(bad: int) -> None:
    A = failing_at(bad, case_named("random").operator)
    with pytest.raises(FloatingPointError, match=f"Product {bad} "):
        lanczos(A, generator=seeded())


@pytest.mark.parametrize(
    "options",
    [
        {"k": 0},
        {"k": 5},
        {"which": "both"},
        {"rtol": -1.0},
        {"k": 3, "max_products": 2},
        {"max_basis": 5},
        {"confidence": 1.0},
        {"start": torch.zeros(4)},
        {"start": torch.ones(3)},
        {"start": torch.full((4,), math.nan)},
    ],
)
def test_senseless_options_are_refused(options: dict[str, Any]) -> None:
    name = list(options)[-1].replace("max_products", "products")
    with pytest.raises(ValueError, match=name):
        lanczos(case_named("decaying").operator, generator=seeded(), **options)


def test_products_that_carry_a_graph_are_fine() -> None:
    D = torch.tensor([3.0, 1.0], dtype=torch.float64, requires_grad=True)
    (found,) = lanczos(LinearOperator(lambda v: D * v, 2), generator=seeded())
    assert found.value == pytest.approx(3.0)
    assert not found.vector.requires_grad
    assert np.isfinite(found.error)
