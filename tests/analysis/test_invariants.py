"""What must hold of the numbers of a whole analysis, from the checkpoint to the rows."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import sklearn.datasets  # noqa: F401 (importing it draws from Python's random numbers)
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import curvature
from curvature import AnalysisConfig, Checkpoint, RunConfig, analyze, models
from curvature.empirical_risk.evaluation import random_state
from curvature.runs.weights import weights_hash
from tests.conftest import seeded
from tests.corpus.case import VECTORS, Y, f64, uneven
from tests.empirical_risk.test_invariants import Failing, state_of

MLP = "mlp:hidden=6,depth=1"
CONFIG = AnalysisConfig(
    examples=30, batch_size=8, dtype="float64", trace_rtol=1e-9, max_passes=12, products="plain"
)
SIZES = {"trace": 1e-9, "eigmax": 1e-6, "loss": 1e-12, "gradient_norm": 1e-9, "accuracy": 0.0}


def checkpoint(change: Callable[[dict[str, Tensor]], None] | None = None) -> Checkpoint:
    model = models.build(MLP, input_shape=(1, 8, 8), classes=10, generator=seeded())
    weights = {name: value.double() for name, value in model.state_dict().items()}
    if change:
        change(weights)
    return Checkpoint(weights, config=RunConfig(model=MLP))


def rows_of(found: Checkpoint, **changes: Any) -> dict[str, float]:
    rows = analyze(found, replace(CONFIG, **changes))
    assert {row["status"] for row in rows} == {"ok"}
    return {row["metric"]: row["value"] for row in rows}


def assert_same(one: dict[str, float], other: dict[str, float], *, looser: float = 1.0) -> None:
    for metric, size in SIZES.items():
        assert one[metric] == pytest.approx(other[metric], rel=size * looser), metric


@pytest.mark.parametrize("method", ["auto", "hutchinson"])
@pytest.mark.parametrize("micro_batch", [1, 7])
def test_any_micro_batch_gives_the_same_rows(method: str, micro_batch: int) -> None:
    whole = rows_of(checkpoint(), trace_method=method)
    parts = rows_of(checkpoint(), trace_method=method, micro_batch=micro_batch)
    assert_same(parts, whole)


def test_any_number_of_threads_gives_the_same_rows() -> None:
    threads = torch.get_num_threads()
    try:
        found = []
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(rows_of(checkpoint(), examples=10))
    finally:
        torch.set_num_threads(threads)
    assert_same(found[1], found[0])


def test_a_seed_gives_the_same_bits_and_another_seed_others() -> None:
    one, again = rows_of(checkpoint(), seed=5), rows_of(checkpoint(), seed=5)
    assert one == again
    assert rows_of(checkpoint(), seed=6)["trace"] != one["trace"]


def test_single_precision_agrees_within_its_own() -> None:
    assert_same(rows_of(checkpoint(), dtype="float32"), rows_of(checkpoint()), looser=1e5)


def test_an_analysis_leaves_the_checkpoint_and_the_randomness() -> None:
    found, random = checkpoint(), random_state()
    before = weights_hash(found.weights)
    rows_of(found)
    assert (weights_hash(found.weights), random_state()) == (before, random)


def test_an_analysis_that_is_stopped_does_too() -> None:
    found, random = checkpoint(), random_state()
    before = weights_hash(found.weights)
    for metric in ("eigmax", "trace"):

        def stop(seen: str, interim: Any, metric: str = metric) -> None:
            if seen == metric:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            analyze(found, CONFIG, report=stop)
        assert (weights_hash(found.weights), random_state()) == (before, random)


MEASURES = {
    "trace": lambda risk: curvature.trace(curvature.hessian(risk), max_passes=3),
    "eigmax": lambda risk: curvature.eigmax(curvature.hessian(risk), max_products=6),
    "performance": curvature.performance,
}


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_measure_that_fails_leaves_the_model(measure: str, share: float) -> None:
    def go(model: Failing) -> None:
        MEASURES[measure](curvature.EmpiricalRisk(model, "cross_entropy", uneven(VECTORS, Y)))

    whole = Failing(10**6)
    go(whole)
    model = Failing(1 + int(share * (10**6 - whole.left - 1)))
    before = state_of(model)
    with pytest.raises(ArithmeticError, match="as asked"):
        go(model)
    assert state_of(model) == before


# -- what is known of the numbers themselves ---------------------------------------------------


def plain(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def thousandfold(outputs: Tensor, targets: Tensor) -> Tensor:
    return 1000 * plain(outputs, targets)


def millionth(outputs: Tensor, targets: Tensor) -> Tensor:
    return 1e-6 * plain(outputs, targets)


@pytest.mark.parametrize(("loss", "scale"), [("thousandfold", 1e3), ("millionth", 1e-6)])
def test_curvature_scales_with_the_loss(loss: str, scale: float) -> None:
    one = rows_of(checkpoint(), loss=f"{__name__}:plain", trace_method="hutchinson")
    scaled = rows_of(checkpoint(), loss=f"{__name__}:{loss}", trace_method="hutchinson")
    for metric in ("trace", "eigmax", "loss", "gradient_norm"):
        assert scaled[metric] == pytest.approx(scale * one[metric], rel=1e-6)
    assert scaled["weight_norm"] == one["weight_norm"]


@pytest.mark.parametrize("c", [0.125, 3.0, 50.0])
def test_rescaled_layers_of_relu_have_rescaled_blocks(c: float) -> None:
    """f(x) = W₂ relu(W₁x + b₁) + b₂ stays; the first block goes by 1/c², W₂'s by c²."""

    def rescale(weights: dict[str, Tensor]) -> None:
        weights["hidden1.weight"] *= c
        weights["hidden1.bias"] *= c
        weights["output.weight"] /= c

    for params, factor in (("hidden1.*", c**-2), ("output.weight", c**2), ("output.bias", 1.0)):
        before = rows_of(checkpoint(), params=(params,), trace_method="exact")
        after = rows_of(checkpoint(rescale), params=(params,), trace_method="exact")
        for metric in ("loss", "accuracy", "calibration_error"):
            assert after[metric] == pytest.approx(before[metric], rel=1e-9)
        for metric in ("trace", "eigmax"):
            assert after[metric] == pytest.approx(factor * before[metric], rel=1e-6), params


def test_the_blocks_of_the_diagonal_add_up_to_the_trace() -> None:
    whole = rows_of(checkpoint(), trace_method="exact")["trace"]
    blocks = [
        rows_of(checkpoint(), trace_method="exact", params=(name,))["trace"]
        for name in checkpoint().weights
    ]
    assert sum(blocks) == pytest.approx(whole, rel=1e-9)


class Swish(nn.Module):
    """Small and smooth: tr(H − G) is not zero."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 3), nn.SiLU(), nn.Linear(3, 3)).double()
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=seeded(4), dtype=f64))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


REPEATS = 500


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("hutchinson", {"rtol": 0.0, "max_passes": 8}),
        ("split", {"rtol": 0.3, "max_passes": 40}),  # stops by itself
    ],
)
def test_intervals_cover_the_trace_as_often_as_they_say(method: Any, options: Any) -> None:
    H = curvature.hessian(Swish(), "cross_entropy", (VECTORS, Y))
    exact = float((H @ torch.eye(H.size, dtype=f64)).trace())
    inside = {0.5: 0, 0.95: 0}
    for seed in range(REPEATS):
        found = curvature.trace(H, method=method, generator=seeded(seed), **options)
        for level in inside:
            low, high = found.interval(level)
            inside[level] += low <= exact <= high
    for level, count in inside.items():  # within three standard deviations of the count
        spread = 3 * (level * (1 - level) / REPEATS) ** 0.5
        assert abs(count / REPEATS - level) <= spread, (level, count)
