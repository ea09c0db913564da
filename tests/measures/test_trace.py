"""tr(G), tr(H − G) and tr(H) of every model in the table, by Jacobians and by differences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from curvature.empirical_risk import EmpiricalRisk
from curvature.measures.functional_trace import tensors_with_a_part
from curvature.measures.split_trace import refusal
from curvature.measures.trace import trace
from curvature.operators import ggn, hessian
from tests.conftest import seeded
from tests.corpus.architectures import ARCHITECTURES
from tests.corpus.case import Case
from tests.corpus.layouts import LAYOUTS
from tests.corpus.losses import LOSSES

CASES = [*ARCHITECTURES, *LOSSES, *LAYOUTS]


def each(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def risk_of(case: Case, **options: Any) -> EmpiricalRisk:
    return EmpiricalRisk(case.build(), case.loss, case.data, **case.options | options)


def trace_of_ggn(risk: EmpiricalRisk) -> float:
    """Σ tr(J ᵀΛJ) from whole Jacobians and the loss's Hessian, example by example or not."""
    total = 0.0
    with risk.evaluating():
        for part in risk.all_parts():
            f = risk.outputs(part)
            rows = [
                risk.flatten(
                    torch.autograd.grad(f_k, risk.leaves, retain_graph=True, materialize_grads=True)
                )
                for f_k in f.reshape(-1)
            ]
            J = torch.stack(rows).double()
            Lambda = torch.autograd.functional.hessian(
                lambda u, part=part, f=f: risk.loss.sum(u.view_as(f), part[1]),
                f.detach().reshape(-1),
            )
            total += float(((J @ J.T) * Lambda).sum())
    return total * risk.scale


def trace_of_hessian(risk: EmpiricalRisk, h: float = 1e-4) -> float:
    """Σ_i [L(w + he_i) − 2L(w) + L(w − he_i)] / h²: no derivative is trusted."""

    def value() -> float:
        with torch.no_grad():
            return math.fsum(float(risk.loss_sum(part)) for part in risk.all_parts()) * risk.scale

    total = 0.0
    with risk.evaluating():
        center = value()
        for p in risk.leaves:
            flat = p.detach().view(-1)
            for i in range(len(flat)):
                before = float(flat[i])
                flat[i] = before + h
                ahead = value()
                flat[i] = before - h
                total += (ahead - 2 * center + value()) / h**2
                flat[i] = before
    return total


@each(CASES)
def test_the_gauss_newton_trace_is_exact_with_all_outputs(case: Case) -> None:
    risk = risk_of(case)
    G = ggn(risk)
    if refusal(G):
        pytest.skip(refusal(G))
    found = trace(G, method="exact")
    assert found.value == pytest.approx(trace_of_ggn(risk), rel=1e-8, abs=1e-14)
    assert found.standard_error == 0


_KNOWN: dict[str, float] = {}  # the differences are two thirds of the time


def known_trace(case: Case, risk: EmpiricalRisk) -> float:
    if case.name not in _KNOWN:
        _KNOWN[case.name] = trace_of_hessian(risk)
    return _KNOWN[case.name]


@each(CASES)
def test_the_rest_is_called_zero_exactly_where_it_is(case: Case) -> None:
    risk = risk_of(case)
    rest = known_trace(case, risk) - trace_of_ggn(risk)
    assert (tensors_with_a_part(risk, seeded(0)) == []) == (abs(rest) < 2e-5)


@each(CASES)
def test_the_split_estimate_lies_within_its_error(case: Case) -> None:
    risk = risk_of(case)
    H = hessian(risk)
    if refusal(H):
        pytest.skip(refusal(H))
    found = trace(H, method="split", max_passes=16, rtol=0.05)
    assert abs(found.value - known_trace(case, risk)) <= 5 * found.standard_error + 2e-5
