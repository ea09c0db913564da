"""What `trace` does with which operator, and what it promises of its result."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import curvature
from curvature.linalg import LinearOperator
from curvature.measures.trace import trace
from curvature.operators import functional_hessian, ggn, hessian
from tests.conftest import seeded
from tests.corpus.case import f64, randn

X, LABELS = randn(60, 6), torch.randint(5, (60,), generator=seeded(1))


def network(activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), activation(), nn.Linear(8, 5)).double()


def dense_trace(operator: Any) -> float:
    matrix: Tensor = operator @ torch.eye(operator.size, dtype=f64)
    return float(matrix.trace())


def test_a_relu_network_needs_the_gauss_newton_part_only() -> None:
    H = hessian(network(), "cross_entropy", (X, LABELS), batch_size=25)
    found = curvature.trace(H)
    assert found.converged
    assert found.method == "split: tr(G) by signs, tr(H−G) = 0 shown"
    assert found.standard_error <= 0.01 * found.value
    assert abs(found.value - dense_trace(H)) < 4 * found.standard_error
    assert sum(found.blocks.values()) == pytest.approx(found.value, rel=1e-12)
    assert set(found.blocks) == set(H.risk.params)


@pytest.mark.parametrize("kind", [hessian, ggn, functional_hessian])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
def test_every_kind_of_operator_has_its_own_trace(kind: Any, activation: type[nn.Module]) -> None:
    A = kind(network(activation), "cross_entropy", (X, LABELS), batch_size=25)
    found = trace(A, rtol=0.05, max_passes=300)
    assert abs(found.value - dense_trace(A)) <= 4 * found.standard_error + 1e-12


def test_blocks_agree_with_the_dense_diagonal_blocks() -> None:
    H = hessian(network(), "cross_entropy", (X, LABELS))
    blocks = trace(H, method="exact").blocks
    diagonal = (H @ torch.eye(H.size, dtype=f64)).diagonal()
    expected = {name: float(diagonal[where].sum()) for name, where in H.risk.layout.items()}
    assert blocks == pytest.approx(expected, rel=1e-9)


def test_weight_decay_adds_itself_times_the_number_of_parameters() -> None:
    model = network()
    plain = trace(hessian(model, "cross_entropy", (X, LABELS)))
    decayed = trace(hessian(model, "cross_entropy", (X, LABELS), weight_decay=0.5))
    n = sum(p.numel() for p in model.parameters())
    assert decayed.value == pytest.approx(plain.value + 0.5 * n, abs=3 * plain.standard_error)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
def test_micro_batches_change_nothing_beyond_rounding(activation: type[nn.Module]) -> None:
    results = [
        trace(
            hessian(
                network(activation), "cross_entropy", (X, LABELS), batch_size=25, micro_batch=m
            ),
            rtol=1e-9,
            max_passes=6,
        )
        for m in (None, 1, 7)
    ]
    for other in results[1:]:
        assert other.value == pytest.approx(results[0].value, rel=1e-6)
        assert other.standard_error == pytest.approx(results[0].standard_error, rel=1e-5)


def test_one_seed_gives_one_result() -> None:
    H = hessian(network(), "cross_entropy", (X, LABELS), batch_size=25)
    first, again, other = (trace(H, generator=seeded(s)) for s in (3, 3, 4))
    assert first == again
    assert first.value != other.value


def test_many_classes_cost_no_more_passes_than_few() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 200)).double()
    labels = torch.randint(200, (60,), generator=seeded(1))
    G = ggn(model, "cross_entropy", (X, labels))
    found, exact = trace(G, max_passes=8), trace(G, method="exact")
    assert abs(found.value - exact.value) <= 4 * found.standard_error
    assert found.standard_error < 0.05 * exact.value


def test_what_can_not_be_split_goes_by_probes() -> None:
    matrix = torch.diag(torch.arange(1.0, 9.0, dtype=f64))
    assert trace(LinearOperator.from_matrix(matrix)).method == "hutchinson"
    H = hessian(network(), lambda model, batch: model(batch[0]).square().mean(), [(X, LABELS)])
    assert trace(H, max_passes=8).method == "hutchinson"
    with pytest.raises(ValueError, match="can't be split: the loss takes"):
        trace(H, method="split")


def test_batch_norm_in_training_mode_goes_by_probes() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)).double()
    H = hessian(model, "cross_entropy", [(X, LABELS)], mode="train")
    assert trace(H, max_passes=8).method == "hutchinson"


def test_examples_that_see_each_other_go_by_probes() -> None:
    norm = nn.BatchNorm1d(8, track_running_stats=False)
    model = nn.Sequential(nn.Linear(6, 8), norm, nn.ReLU(), nn.Linear(8, 5)).double()
    H = hessian(model, "cross_entropy", [(X, LABELS)])
    assert trace(H, max_passes=8).method == "hutchinson"


def test_kinks_are_not_differenced_across() -> None:
    class Twice(nn.Module):
        """One weight used twice in sequence: kinks, and tr(H − G) ≠ 0."""

        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(randn(6, 6))
            self.out = nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(((x @ self.w).relu() @ self.w).relu())

    with torch.random.fork_rng():
        torch.manual_seed(0)
        H = hessian(Twice().double(), "cross_entropy", (X, LABELS), batch_size=25)
    found = trace(H, rtol=0.02, max_passes=400)
    assert "tr(H−G) = 0" not in found.method
    assert "examples at a time for w" in found.method
    assert abs(found.value - dense_trace(H)) <= 4 * found.standard_error


def test_the_examples_spread_is_their_own() -> None:
    H = hessian(network(), "cross_entropy", (X, LABELS))
    found = trace(H, method="exact")
    each = torch.tensor(
        [
            trace(hessian(network(), "cross_entropy", (x[None], y[None])), method="exact").value
            for x, y in zip(X, LABELS, strict=True)
        ]
    )
    assert found.sampling_error == pytest.approx(float(each.double().std()) / math.sqrt(60))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "newton"}, "one of auto, split, hutchinson, exact"),
        ({"rtol": -1.0}, "`rtol` ≥ 0"),
        ({"max_passes": 1}, "`max_passes` ≥ 2"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    H = hessian(network(), "cross_entropy", (X, LABELS))
    with pytest.raises(ValueError, match=message):
        trace(H, **options)


def test_the_interval_of_a_split_trace_covers_the_exact_one() -> None:
    G = ggn(network(), "cross_entropy", (X[:30], LABELS[:30]))
    exact = trace(G, method="exact").value
    inside = 0
    for seed in range(120):
        low, high = trace(G, rtol=0.03, generator=seeded(seed)).interval()
        inside += low <= exact <= high
    assert inside >= 0.88 * 120
