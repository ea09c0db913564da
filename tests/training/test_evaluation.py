"""Loss, accuracy and calibration: of all examples, of groups, and the mean over kinds."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curvature import datasets, models
from curvature.datasets.dataset import Dataset
from curvature.empirical_risk import EmpiricalRisk
from curvature.measures.performance import performance
from curvature.training import evaluate
from tests.conftest import seeded
from tests.training.networks import grouped, whole


def by_key(rows: list[dict[str, Any]]) -> dict[tuple[str, str | None], float]:
    return {(row["metric"], row["block"]): row["value"] for row in rows}


def by_hand(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float, float]:
    """Loss, accuracy, calibration error, example by example."""
    bins: dict[int, list[tuple[float, float]]] = {}
    losses, hits = [], []
    for image, label in zip(x, y, strict=True):
        logits = model(image[None]).detach().double()
        confidence, guess = logits.softmax(1).max(1)
        losses.append(float(F.cross_entropy(logits, label[None])))
        hits.append(float(guess == label))
        bins.setdefault(min(int(float(confidence) * 15), 14), []).append(
            (float(confidence), hits[-1])
        )
    gap = sum(abs(sum(c for c, _ in each) - sum(h for _, h in each)) for each in bins.values())
    return sum(losses) / len(losses), sum(hits) / len(hits), gap / len(hits)


def test_groups_are_measured_by_themselves_and_their_mean_is_of_numbers() -> None:
    data = grouped("test")
    model = models.build("mlp:hidden=5", input_shape=(1, 8, 8), classes=2, generator=seeded(1))
    found = by_key(evaluate(model, data, batch_size=5))
    kinds, levels = data.groups["kind"][0], data.groups["level"][0]
    cases = {
        None: torch.ones(12, dtype=torch.bool),
        "kind=a": kinds == 0,
        "kind=b": kinds == 1,
        "level=2": levels == 1,
        "kind=b,level=1": (kinds == 1) & (levels == 0),
    }
    for block, chosen in cases.items():
        expected = by_hand(model, data.inputs[chosen], data.targets[chosen])
        for metric, value in zip(("loss", "accuracy", "calibration_error"), expected, strict=True):
            assert found[metric, block] == pytest.approx(value, rel=1e-5), (metric, block)
    for metric in ("loss", "accuracy", "calibration_error"):
        mean = (found[metric, "kind=a"] + found[metric, "kind=b"]) / 2
        assert found[metric, "mean over kind"] == pytest.approx(mean)
    assert found["calibration_error", "mean over kind"] != pytest.approx(
        found["calibration_error", None]
    )


def test_agrees_with_performance() -> None:
    data = datasets.load("digits", "test")
    assert isinstance(data, Dataset)
    model = models.build("mlp", input_shape=(1, 8, 8), classes=10, generator=seeded())
    measured = performance(
        EmpiricalRisk(model, "cross_entropy", (data.normalized(data.inputs), data.targets))
    )
    rows = evaluate(model, data)
    found = by_key(rows)
    assert found["loss", None] == pytest.approx(measured.loss, rel=1e-6)
    assert found["accuracy", None] == measured.accuracy
    assert found["calibration_error", None] == pytest.approx(measured.calibration_error)
    assert rows[1]["sampling_error"] == measured.accuracy_error
    assert {row["examples"] for row in rows} == {359}


def test_leaves_the_mode_and_measures_without_dropout() -> None:
    data = grouped("test")
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 2)).train()
    assert evaluate(model, data) == evaluate(model, data)
    assert model.training


def test_a_whole_loss_gives_a_loss_alone() -> None:
    data = grouped("test")
    model = models.build("mlp", input_shape=(1, 8, 8), classes=2, generator=seeded())
    rows = evaluate(model, data, whole)
    assert [row["metric"] for row in rows] == ["loss"]
    assert rows[0]["value"] == pytest.approx(by_hand(model, data.inputs, data.targets)[0], rel=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_diverged_is_said_to_have(value: float) -> None:
    data = grouped("test")
    model = models.build("mlp", input_shape=(1, 8, 8), classes=2, generator=seeded())
    with torch.no_grad():
        model.output.weight.fill_(value)
    for loss in ("cross_entropy", whole):
        assert evaluate(model, data, loss)[0]["status"] == "diverged"
