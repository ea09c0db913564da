"""Roots of Λ in another basis: the same trace in the mean, with less to scatter."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from curvature.empirical_risk import EmpiricalRisk
from curvature.measures import gauss_newton_trace
from curvature.measures.gauss_newton_trace import GaussNewtonTrace
from curvature.measures.root_basis import RootBasis
from curvature.operators import ggn
from tests.conftest import seeded
from tests.corpus.case import f64, randn


def made(classes: int, loss: str = "cross_entropy", count: int = 120) -> EmpiricalRisk:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, classes)).double()
    with torch.no_grad():  # outputs whose gradients are far from orthogonal
        model[2].weight += 2 * model[2].weight[0]
    y = torch.randint(classes, (count,), generator=seeded(1))
    target = y if loss == "cross_entropy" else F.one_hot(y, classes).double()
    return ggn(model, loss, (randn(count, 6), target), batch_size=20).risk


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_it_is_a_root_still(loss: str) -> None:
    risk = made(5, loss)
    batch = next(iter(risk.batches))
    f = risk.outputs(batch).detach()
    basis = RootBasis(risk)
    assert basis._gram is not None
    unit = torch.eye(5, dtype=f64)
    columns = []
    for e in unit:
        signs = torch.stack([e.expand_as(f), torch.ones_like(f)])
        columns.append(basis.vectors(f, batch[1], signs)[0])
    S = torch.stack(columns, 2)
    root = risk.loss.hessian_root(f, batch[1])
    assert torch.allclose(S @ S.mT, root @ root.mT, atol=1e-12)
    gram = S.mT @ basis._gram @ S
    off = gram - torch.diag_embed(gram.diagonal(dim1=1, dim2=2))
    assert off.abs().max() <= 1e-9 * gram.abs().max()


def test_signs_scatter_less_in_it_and_about_the_same_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gauss_newton_trace, "foretold", lambda f: False)  # which has a like effect
    risk = made(5)
    exact = GaussNewtonTrace(risk, seeded(0), exact=True)
    exact.advance()
    variances = []
    for plain in (False, True):
        found = GaussNewtonTrace(risk, seeded(0))
        if plain:
            found._basis._gram = None
        found.advance()
        found.advance(30.0)
        assert abs(found.value() - exact.value()) <= 4 * found.variance() ** 0.5
        variances.append(found.variance())
    assert variances[0] < 0.6 * variances[1]


@pytest.mark.parametrize(("classes", "count"), [(40, 600), (1, 60), (5, 40)])
def test_many_outputs_one_or_few_examples_keep_the_roots_own(classes: int, count: int) -> None:
    loss = "mse" if classes == 1 else "cross_entropy"
    assert RootBasis(made(classes, loss, count))._gram is None
