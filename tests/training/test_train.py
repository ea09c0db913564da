"""What a run leaves behind: accuracy, history, rows, schedules, divergence, refusals."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from curvature import datasets, models
from curvature.runs.checkpoint import load_checkpoint
from curvature.runs.config import RunConfig
from curvature.runs.folder import RunFolder
from curvature.runs.table import read_rows, read_table
from curvature.training import Progress, evaluate, train
from curvature.training.schedule import schedule

HERE = "tests.training.networks"
QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 200}

SETTINGS = {
    "sgd": RunConfig(optimizer="sgd", lr=0.3, epochs=10),
    "msgd": RunConfig(optimizer="msgd", lr=0.1, epochs=10),
    "adam": RunConfig(optimizer="adam", lr=0.01, epochs=10),
    "sam": RunConfig(optimizer="sam", lr=0.1, epochs=10),
    "sa-sgd": RunConfig(optimizer="sa-sgd", lr=0.1, epochs=20),
    "sa-sam": RunConfig(optimizer="sa-sam", lr=0.1, epochs=20, optimizer_options=("growth=0.02",)),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_optimizer_learns_the_digits(name: str, tmp_path: Path) -> None:
    result = train(SETTINGS[name], tmp_path)
    assert result.status == "done"
    assert result.metrics["test_accuracy"] >= 0.95
    passes = {"sgd": 1, "msgd": 1, "adam": 1, "sam": 2, "sa-sgd": 2, "sa-sam": 3}[name]
    first = 1 if name.startswith("sa-") else 0  # there is no w_{t−1} yet
    assert result.metrics["gradients"] == passes * result.step - first


def test_a_run_is_a_step_of_torch_after_another(tmp_path: Path) -> None:
    """The weights of two epochs, by a loop that shares nothing with ours but data and order."""
    config = RunConfig(optimizer="msgd", lr=0.05, weight_decay=1e-3, epochs=2, batch_size=300)
    result = train(config, tmp_path)
    data = datasets.load("digits", "train")
    streams = torch.Generator().manual_seed(config.seed)
    model = models.build("mlp", input_shape=(1, 8, 8), classes=10, generator=streams)
    seed = int(torch.randint(2**63 - 1, (), generator=streams))
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    for _ in range(2):
        for rows in torch.randperm(len(data), generator=order).split(300):
            optimizer.zero_grad()
            outputs = model(data.normalized(data.inputs[rows]))
            nn.functional.cross_entropy(outputs, data.targets[rows]).backward()
            optimizer.step()
    trained = load_checkpoint(result.checkpoint).weights
    for name, value in model.state_dict().items():
        torch.testing.assert_close(trained[name], value)


def test_history_has_a_row_for_every_epoch(tmp_path: Path) -> None:
    seen: list[Progress] = []
    sunk: list[dict[str, Any]] = []
    config = RunConfig(optimizer="sa-sam", lr=0.01, epochs=3, batch_size=200)
    result = train(config, tmp_path, report=seen.append, sinks=[sunk.append])
    assert [row["epoch"] for row in result.history] == [1, 2, 3]
    assert [row["step"] for row in result.history] == [6, 12, 18]
    assert [row["gradients"] for row in result.history] == [17, 35, 53]
    last = result.history[-1]
    assert last["rho"] == pytest.approx(math.sqrt(last["eta"]))
    assert last["eta_min"] <= last["eta"] <= last["eta_max"]
    assert last["active"] in ("smoothness", "growth")
    assert last.get("smoothness_steps", 0) + last.get("growth_steps", 0) == 6
    assert result.history[0]["first_steps"] == 1
    assert [row["val_loss"] for row in sunk] == [row["val_loss"] for row in result.history]
    assert [done.step for done in seen] == list(range(1, 19))
    assert seen[-1].epoch == seen[-1].epochs == 3
    model = models.build("mlp", input_shape=(1, 8, 8), classes=10)
    model.load_state_dict(load_checkpoint(result.checkpoint).weights)
    again = {row["metric"]: row["value"] for row in evaluate(model, datasets.load("digits", "val"))}
    assert last["val_accuracy"] == again["accuracy"]
    assert last["val_loss"] == pytest.approx(again["loss"])


def test_the_table_holds_what_was_evaluated_at_the_end(tmp_path: Path) -> None:
    result = train(RunConfig(**QUICK, optimizer_options=()), tmp_path, evaluate_on=("test",))
    rows = read_table(tmp_path)
    assert [row["metric"] for row in rows] == ["loss", "accuracy", "calibration_error"]
    assert rows == list(result.rows)
    row = rows[1]
    assert row["run"] == result.folder.path.name
    assert (row["split"], row["examples"], row["run.optimizer"]) == ("test", 359, "sgd")
    checkpoint = load_checkpoint(result.checkpoint)
    assert row["checkpoint_hash"] == checkpoint.hash
    assert checkpoint.metrics["test_accuracy"] == row["value"]
    assert (checkpoint.status, checkpoint.epoch, checkpoint.step) == ("done", 1, 6)
    assert result.folder.status == "done"


def test_a_grouped_data_set_is_evaluated_too(tmp_path: Path) -> None:
    config = RunConfig(**QUICK, model="mlp", data=f"{HERE}:grouped")
    result = train(config, tmp_path, evaluate_on=(f"{HERE}:grouped",))
    blocks = {row["block"] for row in result.rows}
    assert {"kind=a", "kind=b", "mean over kind", "kind=a,level=1"} <= blocks


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_rate_follows_the_schedule(optimizer: str, tmp_path: Path) -> None:
    rates: list[float] = []

    def note(step: int, model: nn.Module, made: torch.optim.Optimizer) -> None:
        rates.append(made.param_groups[0]["lr"])

    config = RunConfig(
        optimizer=optimizer, lr=0.2, epochs=4, batch_size=200, schedule="cosine", warmup_epochs=0.5
    )
    train(config, tmp_path, callbacks=[note])
    warm = [0.2 * (t + 1) / 3 for t in range(3)]
    cosine = [0.1 * (1 + math.cos(math.pi * t / 21)) for t in range(21)]
    assert rates == pytest.approx(warm + cosine)


def test_a_constant_rate_stays_after_the_warmup() -> None:
    rate = schedule(RunConfig(lr=1.0, warmup_epochs=1), steps=8, steps_per_epoch=4)
    assert [rate(t) for t in range(8)] == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]


# -- divergence --------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "msgd", "adam", "sam"])
def test_a_divergence_is_a_status_and_finite_weights_are_kept(
    optimizer: str, tmp_path: Path
) -> None:
    config = RunConfig(model=f"{HERE}:noisy", optimizer=optimizer, lr=1e30, **QUICK)
    said: list[str] = []
    result = train(config, tmp_path)
    assert result.status == result.folder.status == "diverged"
    assert result.message
    checkpoint = load_checkpoint(result.checkpoint)
    assert checkpoint.status == "diverged"
    for name, value in checkpoint.weights.items():
        assert bool(value.isfinite().all()), name
    assert result.history[-1]["status"] == "diverged"
    rows = read_rows(result.folder.rows("evaluation-test"))
    assert {(row["status"], row["value"]) for row in rows} == {("diverged", None)}
    train(config, tmp_path, announce=said.append)
    assert "diverged already" in said[0]


@pytest.mark.parametrize("batch_size", [200, 400], ids=["in mid-epoch", "an epoch's first"])
def test_the_step_that_failed_leaves_no_trace(batch_size: int, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"model": f"{HERE}:FailsAtFour", "batch_size": batch_size}
    diverged = train(RunConfig(**asked, epochs=2), tmp_path)
    assert (diverged.status, diverged.step) == ("diverged", 3)
    three = train(RunConfig(**asked, steps=3), tmp_path)
    assert three.status == "done"
    assert load_checkpoint(diverged.checkpoint).hash == load_checkpoint(three.checkpoint).hash
    assert diverged.history[-1]["step"] == 4
    assert diverged.history[0]["train_loss"] == three.history[0]["train_loss"]


def test_infinite_weights_at_the_end_are_a_divergence_too(tmp_path: Path) -> None:
    """The last step's gradient is finite and its product with η isn't: no later loss tells."""
    config = RunConfig(
        model=f"{HERE}:ShallowLine",
        data=f"{HERE}:line_data",
        loss="mse:reduction=sum",
        lr=3e38,
        steps=1,
    )
    result = train(config, tmp_path)
    assert result.status == "diverged"
    assert "NaN or infinite weights" in str(result.message)
    checkpoint = load_checkpoint(result.checkpoint)
    assert float(checkpoint.weights["w"]) == 1.0
    assert checkpoint.step == 0


def test_a_crash_is_recorded_as_failed_and_the_run_can_go_on(tmp_path: Path) -> None:
    def fail(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        raise RuntimeError("no disk")

    with pytest.raises(RuntimeError, match="no disk"):
        train(RunConfig(**QUICK), tmp_path, callbacks=[fail])
    folder = RunFolder(tmp_path / RunConfig(**QUICK).id)
    assert folder.status == "failed"
    assert "RuntimeError: no disk" in folder.status_file.read_text()
    assert train(RunConfig(**QUICK), tmp_path).status == "done"


# -- other people's models, data and losses ----------------------------------------------------


def test_a_whole_loss_and_a_regression_train(tmp_path: Path) -> None:
    whole = train(RunConfig(**QUICK, loss=f"{HERE}:whole"), tmp_path)
    plain = train(RunConfig(**QUICK), tmp_path)
    assert whole.history[-1]["val_loss"] == pytest.approx(plain.history[-1]["val_loss"])
    config = RunConfig(
        model=f"{HERE}:ShallowLine", data=f"{HERE}:line_data", loss="mse", batch_size=12, epochs=40
    )
    line = train(config, tmp_path)
    assert float(load_checkpoint(line.checkpoint).weights["w"]) == pytest.approx(2, abs=0.05)
    assert "val_accuracy" not in line.history[-1]


def test_bfloat16_trains_with_weights_in_float32(tmp_path: Path) -> None:
    result = train(RunConfig(optimizer="sa-sgd", lr=0.1, precision="bfloat16", epochs=4), tmp_path)
    exact = train(RunConfig(optimizer="sa-sgd", lr=0.1, epochs=4), tmp_path)
    assert result.metrics["test_accuracy"] > 0.85
    assert result.metrics["train_loss"] != exact.metrics["train_loss"]
    weights = load_checkpoint(result.checkpoint).weights
    assert {value.dtype for value in weights.values()} == {torch.float32}


def test_seeds_change_weights_and_order_but_not_the_images(tmp_path: Path) -> None:
    runs = [train(RunConfig(**QUICK, seed=seed), tmp_path) for seed in (0, 1)]
    hashes = [{row["data_hash"] for row in run.rows} for run in runs]
    assert hashes[0] == hashes[1]
    assert runs[0].metrics["train_loss"] != runs[1].metrics["train_loss"]


def test_nothing_is_trained_in_no_epochs(tmp_path: Path) -> None:
    result = train(RunConfig(epochs=0), tmp_path)
    assert (result.status, result.step, result.history) == ("done", 0, ())
    assert result.metrics["test_accuracy"] < 0.5


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"optimizer": "sa-sgd", "schedule": "cosine"}, "a cosine schedule would fight it"),
        ({"optimizer": "sa-sam", "warmup_epochs": 1}, "warm-up would fight it"),
        ({"warmup_epochs": 3}, "nothing is left after the warm-up"),
        ({"loss": "mse", "label_smoothing": 0.1}, "`label_smoothing` belongs to"),
        ({"loss": "cross_entropy:label_smoothing=0.2", "label_smoothing": 0.1}, "has its own"),
        ({"data": f"{HERE}:split_list"}, "batches, which are for curvature alone"),
        ({"optimizer": "sdg"}, "Did you mean `sgd`"),
        ({"optimizer": "sgd", "rho": 0.1}, "no option `rho`"),
        ({"optimizer_options": ("momentum=0.9",)}, "no option `momentum`"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_trained_is_refused_before_a_folder_is_made(
    fields: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        train(RunConfig(**{**QUICK, **fields}), tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_could_not_be_evaluated_afterwards_is_refused_first(tmp_path: Path) -> None:
    config = RunConfig(**QUICK, model=f"{HERE}:ShallowLine", data=f"{HERE}:line_data", loss="mse")
    with pytest.raises(ValueError, match=r"`digits` has inputs of shape \(1, 8, 8\)"):
        train(config, tmp_path, evaluate_on=("digits",))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_part_of_the_data_is_told_and_left_out(tmp_path: Path) -> None:
    said: list[str] = []
    result = train(RunConfig(**QUICK, data="digits:validation=0"), tmp_path, announce=said.append)
    assert any(line.startswith("No val numbers: ") for line in said)
    assert {row["split"] for row in result.rows} == {"test"}
    assert "val_loss" not in result.history[-1]


def test_training_data_are_never_called_a_test_part(tmp_path: Path) -> None:
    whole = datasets.load("digits:validation=0,test=0", "train")
    np.savez(tmp_path / "own.npz", x=whole.inputs, y=whole.targets)
    said: list[str] = []
    config = RunConfig(**QUICK, data=f"npz:{tmp_path / 'own.npz'}")
    result = train(config, tmp_path / "runs", announce=said.append)
    assert result.rows == ()
    assert [line for line in said if "has no test part, it gives the training data again" in line]
    parted = RunConfig(**QUICK, data=f"{config.data},validation=0.1,test=0.2")
    rows = train(parted, tmp_path / "runs").rows
    assert {row["split"] for row in rows} == {"val", "test"}
