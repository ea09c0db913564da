"""The operator itself, its terms, and the way to SciPy."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh

from curvature.linalg import LinearOperator
from curvature.linalg.operator import dot, norm
from tests.cases import Case, case_named, for_each_case, symmetric
from tests.conftest import seeded


@for_each_case
def test_product_is_the_matrix_times_the_vector(case: Case) -> None:
    A = case.operator
    V = torch.randn(A.size, 3, generator=seeded()).to(A.dtype)
    expected = case.matrix @ V.double()
    atol = case.rounding * A.size
    torch.testing.assert_close((A @ V).double(), expected, rtol=0, atol=atol)
    torch.testing.assert_close((A @ V[:, 0]).double(), expected[:, 0], rtol=0, atol=atol)


def test_terms_add_up() -> None:
    A = case_named("uneven terms").operator
    v = torch.randn(A.size, generator=seeded(), dtype=A.dtype)
    torch.testing.assert_close(A @ v, A.terms[0] @ v + A.terms[1] @ v)


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
def test_scipy_finds_the_same_eigenvalue(which: str) -> None:
    case = case_named("negative and clustered")
    found = eigsh(case.operator.to_scipy(), k=1, which=which, return_eigenvectors=False)
    low, high = case.eigenvalues[-1], case.eigenvalues[0]
    assert found[0] == pytest.approx(high if which == "LA" else low)


def test_scipy_gets_float32_where_the_operator_has_it() -> None:
    A = case_named("float32").operator.to_scipy()
    assert A.dtype == np.float32
    assert A.matvec(np.ones(A.shape[0])).dtype == np.float32


def test_what_is_not_a_symmetric_operator_is_refused() -> None:
    lopsided = torch.tensor([[1.0, 1e-20], [0.0, 1e-20]])
    with pytest.raises(ValueError, match="symmetric"):
        LinearOperator.from_matrix(1e-20 * (lopsided + torch.tensor([[0.0, 1.0], [0.0, 0.0]])))
    with pytest.raises(ValueError, match="symmetric"):
        LinearOperator.from_matrix(torch.full((2, 2), float("nan")))
    with pytest.raises(ValueError, match="square"):
        LinearOperator.from_matrix(torch.ones(2, 3))
    with pytest.raises(ValueError, match="Expected a matrix"):
        LinearOperator.from_matrix()
    with pytest.raises(ValueError, match="share"):
        LinearOperator.from_matrix(torch.eye(2), torch.eye(3))
    with pytest.raises(ValueError, match="matvec"):
        LinearOperator(None, 3)
    with pytest.raises(ValueError, match="positive"):
        LinearOperator(lambda v: v, 0)


@pytest.mark.parametrize("shape", [(2,), (4,), (), (3, 2, 1)])
def test_a_vector_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="Expected 3 rows"):
        LinearOperator.from_matrix(symmetric(1.0, 2.0, 3.0)) @ torch.ones(shape)


def test_dot_and_norm_neither_overflow_nor_underflow_in_float32() -> None:
    v = torch.full((1 << 20,), 1e25).repeat(2)[:-5]  # two chunks
    assert norm(v).item() == pytest.approx(1e25 * len(v) ** 0.5, rel=1e-6)
    assert dot(v, v).item() == pytest.approx(1e50 * len(v), rel=1e-6)
    assert norm(torch.full((4,), 1e-30)).item() == pytest.approx(2e-30)


def test_repr_tells_size_terms_and_dtype() -> None:
    assert repr(case_named("uneven terms").operator) == (
        "LinearOperator(2 × 2, 2 terms, torch.float64)"
    )
