"""tr(H − G) by differences, against products with all unit vectors."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curvature.empirical_risk import EmpiricalRisk
from curvature.measures import functional_trace, units
from curvature.measures.draws import Draws
from curvature.measures.functional_trace import FunctionalTrace, tensors_with_a_part
from curvature.measures.gauss_newton_trace import GaussNewtonTrace
from curvature.measures.output_differences import OutputDifferences
from curvature.measures.trace import trace
from curvature.operators import functional_hessian, hessian
from tests.conftest import seeded
from tests.corpus.case import f64, randn


class Tokens(nn.Module):
    """Twelve positions that share their weights, and attend to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(3, 6), nn.Parameter(torch.randn(1, 12, 6))
        self.norm, self.qk = nn.LayerNorm(6), nn.Linear(6, 12)
        self.mlp = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.position
        q, k = self.qk(self.norm(x)).chunk(2, -1)
        x = x + (q @ k.mT).softmax(-1) @ x
        out: Tensor = self.head((x + self.mlp(x)).mean(1))
        return out


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "_LEAST", 4)
    monkeypatch.setattr(units, "_USES", 1)


@functools.cache
def risk(dtype: torch.dtype = f64) -> EmpiricalRisk:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Tokens().to(dtype)
    y = torch.randint(4, (24,), generator=seeded(1))
    return functional_hessian(
        model, "cross_entropy", (randn(24, 12, 3).to(dtype), y), batch_size=10
    ).risk


@functools.cache
def exact(kind: int = 0) -> float:
    found = FunctionalTrace(risk(), seeded(0), names(), scaled=True, exact=True)
    found.advance()
    return found.value(kind)


def residuals() -> Tensor:
    """‖p − y‖ of every example."""
    batches = [(risk().outputs(batch).detach(), batch[1]) for batch in risk().batches]
    p = torch.cat([f for f, _ in batches]).softmax(1)
    return (p - F.one_hot(torch.cat([y for _, y in batches]), 4)).norm(dim=1)


@functools.cache
def names() -> tuple[str, ...]:
    return tuple(tensors_with_a_part(risk(), seeded(0)))


@pytest.mark.parametrize(
    ("dtype", "looked_at", "groups"), [(f64, 2, 9), (f64, 2, 2), (torch.float32, 7, 9)]
)
def test_the_stated_error_is_the_error(
    dtype: torch.dtype, looked_at: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(functional_trace, "_LOOKED_AT", looked_at)
    monkeypatch.setattr(functional_trace, "_MANY", 2)
    monkeypatch.setattr(functional_trace, "_GROUPS", groups)
    found = FunctionalTrace(risk(dtype), seeded(0), names(), scaled=True)
    count = len(found.unit_sizes)
    found.weigh(residuals())
    assert (len(found.unit_sizes) < count) == (groups == 2)
    shares = [each.share for each in found.draws]
    assert "by differences" in found.method
    gaps: list[list[float]] = [[], []]
    for seed in range(20):
        found.draws = [Draws(count, 1, seeded(seed)) for _ in range(2)]
        for each, share in zip(found.draws, shares, strict=True):
            each.share = share
        assert (found.look() is None) == (looked_at == 7)  # of seven units
        found.advance()
        found.advance(4)
        for kind in range(2):
            gap = found.value(kind) - exact(kind)
            gaps[kind].append(gap / found.variance(kind) ** 0.5)
    for each in torch.tensor(gaps):
        assert 0.4 < float(each.square().mean()) < 2.5
        assert abs(float(each.mean())) < 4 / 20**0.5


def test_without_what_linear_layers_add_the_mean_stays_and_the_variance_falls() -> None:
    few = risk().few(next(iter(risk().batches)), 8)
    layers, plain = (OutputDifferences(risk(), few, names(), plain=p) for p in (False, True))
    found = FunctionalTrace(risk(), seeded(0), names())
    step = found._steps[0]
    centers = layers.centers(few), plain.centers(few)
    forms = torch.tensor(
        [
            [layers.form(centers[0], z, step), plain.form(centers[1], z, step)]
            for z in (found._direction(0) for _ in range(400))
        ],
        dtype=f64,
    )
    gap = forms[:, 0] - forms[:, 1]
    assert float(gap.std()) > 0
    assert abs(float(gap.mean())) <= 4 * float(gap.std()) / 20
    assert forms[:, 0].var() < 0.9 * forms[:, 1].var()


def test_some_units_tell_what_all_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional_trace, "_LOOKED_AT", 3)
    monkeypatch.setattr(functional_trace, "_MANY", 2)
    found = FunctionalTrace(risk(), seeded(0), names())
    monkeypatch.setattr(functional_trace, "_LOOKS", 40)
    seen = found.look()
    assert seen is not None
    assert found.passes == 3 * 40 / 7
    found.advance(30)
    assert found.passes >= 30
    assert seen[1] == pytest.approx(found.passes * found.variance(), rel=0.7)


def test_a_trace_takes_few_rounds_over_all_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "_USES", 0)
    monkeypatch.setattr(units, "_LEAST", 1)
    advanced: list[float] = []
    advance = FunctionalTrace.advance

    def counted(self: FunctionalTrace, number: float = 1) -> None:
        advance(self, number)
        advanced.append(self.passes)

    monkeypatch.setattr(FunctionalTrace, "advance", counted)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Tokens().double()
    y = torch.randint(4, (96,), generator=seeded(1))
    found = trace(
        hessian(model, "cross_entropy", (randn(96, 12, 3), y)), rtol=0.02, generator=seeded(0)
    )
    assert found.converged
    assert advanced[0] > 3
    assert len(advanced) <= 4


def test_alike_examples_share_a_probe_and_larger_ones_have_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(functional_trace, "_GROUPS", 2)
    G = GaussNewtonTrace(risk(), seeded(0))
    G.advance()
    assert torch.allclose(G.residuals, residuals())
    found = FunctionalTrace(risk(), seeded(0), names())
    found.weigh(G.residuals)
    assert found.unit_sizes == [10, 10, 4]
    for start, rows in zip((0, 10, 20), found.units, strict=True):
        assert sorted(i for unit in rows for i in unit) == list(range(sum(map(len, rows))))
        sizes = [G.residuals[[start + i for i in unit]] for unit in rows]
        assert all(a.max() <= b.min() for a, b in itertools.pairwise(sizes))
    share = found.draws[0].share
    assert share[0] < share[1]
    assert share.mean() == pytest.approx(1)
    found.advance(9)
    by_unit = found.by_unit()
    assert by_unit is not None
    assert len(by_unit) == 3
    assert float(by_unit.sum()) == pytest.approx(found.value())


def test_sorted_units_leave_the_sampling_error_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "_USES", 0)
    monkeypatch.setattr(units, "_LEAST", 8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Tokens().double()
    y = torch.randint(4, (768,), generator=seeded(1))
    H = hessian(model, "cross_entropy", (4 * randn(768, 12, 3), y))
    errors = []
    for groups in (8, 1000):
        monkeypatch.setattr(functional_trace, "_GROUPS", groups)
        errors.append(trace(H, rtol=0.05, generator=seeded(0)).sampling_error)
    assert errors[0] == pytest.approx(errors[1], rel=0.35)


def test_rounds_of_draws_add_up_whatever_their_size() -> None:
    found = FunctionalTrace(risk(), seeded(0), names())
    sizes = found.unit_sizes
    assert sizes == [4, 4, 2, 4, 4, 2, 4]
    found.advance()
    assert found.passes == 2
    found.advance(3)
    found.advance(1)
    assert found.passes == 6
    by_unit = found.by_unit()
    assert by_unit is not None
    assert float(by_unit.sum()) == pytest.approx(found.value())


@pytest.mark.parametrize(("kink", "way"), [(nn.LeakyReLU, "probes"), (nn.GELU, "differences")])
def test_no_differences_where_kinks_stand_beside_what_is_smooth(
    kink: type[nn.Module], way: str
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 12), kink(), nn.Linear(12, 5)]
        model = nn.Sequential(*layers)
    y = torch.randint(5, (400,), generator=seeded(1))
    H = functional_hessian(model, "cross_entropy", (randn(400, 6).float(), y))
    found = FunctionalTrace(H.risk, seeded(0), tensors_with_a_part(H.risk, seeded(0)))
    assert f"by {way}" in found.method
    found.advance(20)
    exact = sum(float((H @ e) @ e) for e in torch.eye(H.size))
    assert abs(found.value() - exact) < 4 * found.variance() ** 0.5
