"""What other examples foretell of a draw: nothing on average, most where all are alike."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from curvature.measures import gauss_newton_trace, root_basis
from curvature.measures.cross_terms import CrossTerms, foretold
from curvature.measures.trace import trace
from curvature.operators import hessian
from tests.conftest import seeded
from tests.corpus.case import f64, randn

LABELS = torch.randint(4, (400,), generator=seeded(1))


def mixed() -> nn.Sequential:
    """Outputs A(Wx + b) with A for good: JJᵀ is (1 + |x|²) AAᵀ."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4, bias=False)).double()
    model[1].requires_grad_(False)
    return model


def test_where_all_are_alike_no_chance_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(root_basis, "_CLEARLY", 0.0)  # a basis that leaves no chance by itself
    x = F.normalize(randn(400, 6), dim=1)
    model = mixed()
    H = hessian(model, "cross_entropy", (x, LABELS), batch_size=100)
    found = trace(H, rtol=0.5, generator=seeded(0))
    monkeypatch.setattr(gauss_newton_trace, "foretold", lambda f: False)
    without = trace(H, rtol=0.5, generator=seeded(0))
    A, p = model[1].weight.detach(), torch.softmax(model(x), 1).detach()
    exact = 2 * float((p @ A.square().sum(1) - (p @ A).square().sum(1)).mean())
    assert abs(found.value / exact - 1) < 0.1 * without.standard_error / exact
    assert found.standard_error < 0.1 * without.standard_error


@pytest.mark.parametrize("alike", [0.0, 1.0])
def test_what_is_subtracted_is_nothing_on_average(alike: float) -> None:
    """Of roots and matrices K that stay, over signs that change; K_i common or not."""
    n, C = 200, 3
    root = randn(n, C, C, seed=1)
    own = randn(n, C, C, seed=2)
    K = alike * randn(C, C, seed=3) + (1 - alike) * own
    K = K @ K.mT
    totals, left, as_it_is = [], [], []
    for seed in range(300):
        cross = CrossTerms(n, 1)
        signs = torch.randint(2, (2, n, C, 1), generator=seeded(seed)).to(f64) * 2 - 1
        first, later = (root @ signs)[..., 0]
        units = torch.arange(n)
        values, again = (torch.einsum("na,nab,nb->n", v, K, v)[:, None] for v in (first, later))
        cross.see(units, first, root, values)
        of_first, of_later = cross.learn(), cross.of(units, later, root)
        assert of_first is not None
        assert of_later is not None
        totals.append([float(of_first.sum()), float(of_later.sum())])
        left.append(float((again - of_later).sum()))
        as_it_is.append(float(again.sum()))
    sums = torch.tensor(totals, dtype=f64)
    assert (sums.mean(0).abs() <= 4 * sums.std(0) / math.sqrt(len(sums)) + 1e-12).all()
    spread = [float(torch.tensor(x, dtype=f64).std()) for x in (left, as_it_is)]
    assert spread[0] < (0.3 if alike else 1.1) * spread[1]


def test_few_draws_and_many_outputs_foretell_nothing() -> None:
    n = 32 * 6 - 1
    cross = CrossTerms(n, 1)
    root, v = randn(n, 3, 3), randn(n, 3)
    cross.see(torch.arange(n), v, root, torch.ones(n, 1, dtype=f64))
    assert cross.learn() is None
    assert cross.of(torch.arange(n), v, root) is None
    assert CrossTerms(5, 1).learn() is None
    assert not foretold(torch.zeros(2, 17))
    assert not foretold(torch.zeros(2, 3, 4))
