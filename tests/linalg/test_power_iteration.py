"""Power iteration: algebraic where it shifts, truthful about its residual."""

from typing import Any, Literal

import pytest

from curvature.linalg import LinearOperator, PowerEstimate, power_iteration
from tests.cases import Case, case_named, counted, failing_at, for_each_case, symmetric
from tests.conftest import seeded


@for_each_case
def test_largest_eigenvalue(case: Case) -> None:
    for seed in range(5):
        found = power_iteration(case.operator, generator=seeded(seed), max_products=3000)
        assert found.converged
        assert found.residual <= max(1e-3 * abs(found.value), case.rounding)
        if case.name != "nearly repeated":
            assert abs(found.value - case.eigenvalues[0]) <= max(found.residual, case.rounding)


@for_each_case
@pytest.mark.parametrize("which", ["largest", "smallest"])
def test_some_eigenvalue_is_as_near_as_the_true_residual(
    case: Case, which: Literal["largest", "smallest"]
) -> None:
    for max_products in (1, 3, 10, 100):
        found = power_iteration(
            case.operator, generator=seeded(), which=which, max_products=max_products
        )
        v = found.vector.double()
        residual = (case.matrix @ v - found.value * v).norm().item()
        assert residual == pytest.approx(found.residual, rel=0.01, abs=0.1 * case.rounding)
        nearest = abs(case.eigenvalues - found.value).min()
        assert nearest <= found.error + case.rounding


def test_smallest_eigenvalue() -> None:
    for name in ("decaying", "dominant negative", "uneven terms", "huge, float32"):
        case = case_named(name)
        found = power_iteration(case.operator, generator=seeded(), which="smallest")
        assert found.value == pytest.approx(case.eigenvalues[-1], rel=1e-3)


@pytest.mark.parametrize(
    ("name", "shifted"),
    [
        ("decaying", False),
        ("like a network's", False),
        ("rank one", False),
        ("dominant negative", True),
        ("negative and clustered", True),
        ("opposite ends", True),
        ("negative definite", True),
        ("negative rank one", True),
    ],
)
def test_a_shift_is_made_and_told_where_the_negative_end_dominates(
    name: str, shifted: bool
) -> None:
    found = power_iteration(case_named(name).operator, generator=seeded(), max_products=2000)
    assert (found.shift > 0) == shifted


def test_the_shift_of_the_smallest_is_negative() -> None:
    A = case_named("decaying").operator
    assert power_iteration(A, generator=seeded(), which="smallest").shift < 0


def test_values_that_agree_are_no_reason_to_stop() -> None:
    A = LinearOperator.from_matrix(symmetric(1.0, 0.999, *[0.0] * 30))
    found = power_iteration(A, generator=seeded(), rtol=1e-5, max_products=300)
    assert not found.converged
    assert found.residual > 1e-5 * found.value


def test_max_products_is_respected_and_reported() -> None:
    A, calls = counted(case_named("random").operator)
    seen: list[PowerEstimate] = []
    found = power_iteration(A, generator=seeded(), max_products=7, report=seen.append)
    assert len(calls) == found.products == 7
    assert not found.converged
    assert [estimate.products for estimate in seen] == list(range(1, 8))
    assert seen[-1] == found


def test_same_seed_same_result() -> None:
    A = case_named("negative and clustered").operator
    one, two, other = (power_iteration(A, generator=seeded(s), max_products=50) for s in (1, 1, 2))
    assert one == two
    assert one.value != other.value


def test_a_product_that_is_not_finite_is_named() -> None:
    A = failing_at(3, case_named("random").operator)
    with pytest.raises(FloatingPointError, match="Product 3 "):
        power_iteration(A, generator=seeded())


@pytest.mark.parametrize("options", [{"which": "both"}, {"max_products": 0}, {"rtol": -1.0}])
def test_senseless_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        power_iteration(case_named("decaying").operator, generator=seeded(), **options)
