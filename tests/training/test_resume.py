"""A run that was stopped and went on is the uninterrupted one, bit by bit."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from curvature.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from curvature.runs.config import RunConfig
from curvature.runs.folder import RunFolder
from curvature.runs.table import read_rows
from curvature.training import TrainingResult, train
from tests.conftest import ROOT

NOISY = "tests.training.networks:noisy"
OPTIMIZERS = {
    "sgd": {"lr": 0.1},
    "msgd": {"lr": 0.02, "clip_norm": 1.0, "schedule": "cosine", "warmup_epochs": 0.5},
    "adam": {"lr": 0.01, "label_smoothing": 0.1},
    "sam": {"lr": 0.02, "weight_decay": 1e-3},
    "sa-sgd": {"lr": 0.01},
    "sa-sam": {"lr": 0.01, "weight_decay": 1e-3},
}
for_each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def config(name: str, **changes: Any) -> RunConfig:
    fields = {"model": NOISY, "optimizer": name, "epochs": 2, "batch_size": 200}
    return RunConfig(**{**fields, **OPTIMIZERS[name], **changes})


def after(steps: int) -> Callable[[], bool]:
    """Say stop when asked for the ``steps``-th time."""
    count = itertools.count(1)
    return lambda: next(count) >= steps


def timeless(result: TrainingResult) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in result.history]


def flat(value: Any) -> Any:
    """Comparable, NaN and tensors included."""
    if isinstance(value, Tensor):
        return ("tensor", value.dtype, tuple(value.shape), value.tolist())
    if isinstance(value, dict):
        return {key: flat(item) for key, item in value.items() if key != "seconds"}
    return [flat(item) for item in value] if isinstance(value, list | tuple) else repr(value)


def assert_same_state(one: Checkpoint, other: Checkpoint) -> None:
    assert one.hash == other.hash
    for name in ("weights", "optimizer", "random_states", "metrics", "step", "epoch"):
        assert flat(getattr(one, name)) == flat(getattr(other, name)), name


@for_each_optimizer
@pytest.mark.parametrize("stops", [(6,), (2, 3, 4)], ids=["at the epoch's end", "in mid-epoch"])
def test_going_on_is_exact(name: str, stops: tuple[int, ...], tmp_path: Path) -> None:
    whole = train(config(name), tmp_path / "whole")
    for steps in stops:
        part = train(config(name), tmp_path / "parts", stop=after(steps))
        assert part.status == "interrupted"
    assert part.step == sum(stops)
    parts = train(config(name), tmp_path / "parts")
    assert parts.status == whole.status == "done"
    assert timeless(parts) == timeless(whole)
    assert len(whole.history) == 2
    assert_same_state(load_checkpoint(parts.checkpoint), load_checkpoint(whole.checkpoint))
    assert [row["value"] for row in parts.rows] == [row["value"] for row in whole.rows]


def test_a_run_of_steps_goes_on_exactly(tmp_path: Path) -> None:
    asked = config("sa-sam", steps=9, epochs=0)
    whole = train(asked, tmp_path / "whole", checkpoint_every=2)
    train(asked, tmp_path / "parts", stop=after(7))
    parts = train(asked, tmp_path / "parts")
    assert parts.step == whole.step == 9
    assert timeless(parts) == timeless(whole)
    assert [row["epoch"] for row in whole.history] == [1, 1.5]
    assert_same_state(load_checkpoint(parts.checkpoint), load_checkpoint(whole.checkpoint))
    kept = sorted(path.name for path in (whole.folder.path / "checkpoints").iterdir())
    assert kept == [f"step-{step:07d}.pt" for step in (0, 2, 4, 6, 8)]


def test_what_is_seen_from_outside_leaves_the_run_as_it_is(tmp_path: Path) -> None:
    def look(step: int, model: torch.nn.Module, optimizer: Any) -> list[dict[str, Any]]:
        model.eval()
        return [{"metric": "noise", "index": 0, "value": float(torch.rand(()))}]

    alone = train(config("msgd"), tmp_path / "alone")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    watched = train(config("msgd"), tmp_path / "watched", callbacks=[look], stop=after(7))
    watched = train(config("msgd"), tmp_path / "watched", callbacks=[look])
    assert torch.equal(torch.get_rng_state(), before)
    assert timeless(watched) == timeless(alone)
    rows = read_rows(watched.folder.rows("tracking"))
    assert [row["step"] for row in rows] == list(range(1, 13))


def test_kept_checkpoints_are_states_of_the_run(tmp_path: Path) -> None:
    result = train(config("adam"), tmp_path, checkpoint_every=1)
    kept = result.folder.epoch_checkpoints()
    assert list(kept) == [0, 1, 2]
    assert [load_checkpoint(path).step for path in kept.values()] == [0, 6, 12]
    assert load_checkpoint(kept[2]).hash == load_checkpoint(result.checkpoint).hash


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    said: list[str] = []
    first = train(config("sgd"), tmp_path)
    written = first.checkpoint.stat().st_mtime_ns
    again = train(config("sgd"), tmp_path, announce=said.append)
    assert said == [
        f"Run {first.folder.path.name} is done already, in {first.folder.path}: nothing to do."
    ]
    assert again.metrics == first.metrics
    assert again.rows == first.rows
    assert first.checkpoint.stat().st_mtime_ns == written
    afresh = train(config("sgd"), tmp_path, resume=False)
    assert timeless(afresh) == timeless(first)
    assert first.checkpoint.stat().st_mtime_ns > written


def test_rows_of_steps_after_the_checkpoint_are_taken_again(tmp_path: Path) -> None:
    """Killed between the two files, the history is one epoch ahead of the checkpoint."""
    whole = train(config("sgd"), tmp_path / "whole")
    part = train(config("sgd"), tmp_path / "parts", stop=after(8))
    ahead = [*part.history, {**part.history[-1], "step": 12, "train_loss": 99.0}]
    part.folder.history.write_text("".join(json.dumps(row) + "\n" for row in ahead))
    assert timeless(train(config("sgd"), tmp_path / "parts")) == timeless(whole)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    other = train(config("sgd", epochs=1), tmp_path)
    mine = RunFolder.create(tmp_path, config("sgd"))
    mine.checkpoint.write_bytes(other.checkpoint.read_bytes())
    with pytest.raises(ValueError, match="is not of the run"):
        train(config("sgd"), tmp_path)


def test_what_cannot_be_gone_on_from_is_refused(tmp_path: Path) -> None:
    part = train(config("adam"), tmp_path, stop=after(2))
    whole = load_checkpoint(part.checkpoint)
    weights = dict(list(whole.weights.items())[1:])
    for changes, says in (
        ({"optimizer": None}, "has no optimizer state or random states"),
        ({"random_states": {}}, "has no optimizer state or random states"),
        ({"weights": weights}, "don't fit the model"),
    ):
        save_checkpoint(part.checkpoint, replace(whole, **changes))
        with pytest.raises(ValueError, match=says):
            train(config("adam"), tmp_path)


# -- processes that are killed -----------------------------------------------------------------

LONG = {
    "data": "tests.training.networks:noise",
    "epochs": 12,
    "batch_size": 16,
}  # many epochs of little time, each written to disk


def command(root: Path, name: str) -> list[str]:
    asked = {**OPTIMIZERS[name], **LONG, "model": NOISY, "optimizer": name}
    options = [f"--{key.replace('_', '-')}={value}" for key, value in asked.items()]
    return [sys.executable, "-m", "curvature_cli.main", "train", *options, f"--out={root}"]


def started(root: Path, name: str, epochs: int) -> subprocess.Popen[str]:
    """A process of its own that has written so many rows of history."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(root, name),
        cwd=ROOT,
        env=environment,
        text=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    history = RunFolder(root / config(name, **LONG).id).history
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if history.exists() and len(history.read_text().splitlines()) >= epochs:
            return process
        time.sleep(0.005)
    process.kill()
    raise AssertionError(f"ended early: {process.communicate()}")


def test_a_killed_process_loses_at_most_an_epoch(tmp_path: Path) -> None:
    asked = config("sa-sam", **LONG)
    moments = random.Random(0)
    for epochs in (1, 4):
        process = started(tmp_path / "killed", "sa-sam", epochs)
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        process.communicate()
        folder = RunFolder(tmp_path / "killed" / asked.id)
        assert folder.status == "running"
        assert load_checkpoint(folder.checkpoint).epoch >= epochs - 1
        assert len(read_rows(folder.history)) >= epochs
    parts = train(asked, tmp_path / "killed")
    whole = train(asked, tmp_path / "whole")
    assert timeless(parts) == timeless(whole)
    assert_same_state(load_checkpoint(parts.checkpoint), load_checkpoint(whole.checkpoint))


def test_ctrl_c_ends_after_the_step_and_says_how_to_go_on(tmp_path: Path) -> None:
    process = started(tmp_path, "msgd", 2)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "The same command goes on from there." in stderr
    assert "Traceback" not in stderr
    folder = RunFolder(tmp_path / config("msgd", **LONG).id)
    assert folder.status == "interrupted"
    step = load_checkpoint(folder.checkpoint).step
    assert f"Stopped after step {step}." in stderr
