"""Operators whose matrix is known, and two more oracles for one whose isn't."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from curvature.empirical_risk import EmpiricalRisk
from curvature.operators import functional_hessian, ggn, hessian
from tests.corpus.case import VECTORS, Y, f64, randn, uneven
from tests.corpus.losses import REAL


def dense(operator: Any) -> Tensor:
    matrix: Tensor = operator @ torch.eye(operator.size, dtype=operator.dtype)
    return matrix


def test_a_quadratic_has_its_own_matrix() -> None:
    A = randn(5, 5, seed=2)
    A = A + A.T

    class Weights(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(randn(5))

        def forward(self, x: Tensor) -> Tensor:
            return (0.5 * self.w @ A @ self.w).expand(len(x))

    H = hessian(Weights(), lambda f, y: f, uneven(VECTORS, Y), weight_decay=0.3)
    torch.testing.assert_close(dense(H), A + 0.3 * torch.eye(5, dtype=f64))
    torch.testing.assert_close(sum(dense(term) for term in H.terms), dense(H))


def test_softmax_regression_has_its_closed_form() -> None:
    model = nn.Linear(4, 3, bias=False).double()
    p = model(VECTORS).softmax(1).detach()
    blocks = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    expected = torch.einsum("ncd,ni,nj->cidj", blocks, VECTORS, VECTORS).reshape(12, 12) / 7
    data = uneven(VECTORS, Y)
    torch.testing.assert_close(dense(hessian(model, "cross_entropy", data)), expected)
    torch.testing.assert_close(dense(ggn(model, "cross_entropy", data)), expected)
    assert not dense(functional_hessian(model, "cross_entropy", data)).any()


def test_linear_regression_has_its_closed_form() -> None:
    X = torch.cat([VECTORS, torch.ones(7, 1, dtype=f64)], 1)
    H = hessian(nn.Linear(4, 1).double(), "mse", uneven(VECTORS, REAL[:, :1]))
    torch.testing.assert_close(dense(H), 2 * X.T @ X / 7)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize("oracle", ["jacfwd of grad", "autograd.functional"])
def test_two_more_oracles_agree(oracle: str) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 3)).double()
    shapes = {name: p.shape for name, p in model.named_parameters()}
    w = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def value(w: Tensor) -> Tensor:
        parts = w.split([shape.numel() for shape in shapes.values()])
        params = {n: p.view(s) for (n, s), p in zip(shapes.items(), parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, params, (VECTORS,)), Y)

    expected = (
        torch.func.jacfwd(torch.func.grad(value))(w)
        if oracle == "jacfwd of grad"
        else torch.autograd.functional.hessian(value, w)
    )
    torch.testing.assert_close(dense(hessian(model, "cross_entropy", uneven(VECTORS, Y))), expected)


def test_a_zero_gradient_and_a_zero_hessian_are_zeros() -> None:
    model = nn.Linear(4, 3).double()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    risk = EmpiricalRisk(model, "mse", uneven(VECTORS, torch.zeros(7, 3)))
    assert not risk.gradient().any()
    flat = EmpiricalRisk(model, lambda f, y: 0 * f.sum(1), uneven(VECTORS, Y))
    for operator in (hessian, ggn, functional_hessian):
        assert not (operator(flat) @ torch.ones(15, dtype=f64)).any()
