"""Rows into TensorBoard's and wandb's own files, read back with their own readers."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from curvature.runs.sinks import scalars, tensorboard_sink, wandb_sink

HISTORY = {"run": "a", "epoch": 1, "step": 6, "train_loss": 0.5, "val_loss": None, "status": "ok"}


def tracked(step: int, value: float | None, analysis: str = "tracking") -> dict[str, Any]:
    row = {"run": "a", "analysis": analysis, "metric": "eigmax", "step": step, "value": value}
    return {**row, "residual": 0.25, "standard_error": None, "passes": 9, "converged": True}


def test_what_is_drawn_of_a_row() -> None:
    assert scalars(HISTORY) == {"epoch": 1, "train_loss": 0.5}
    assert scalars(tracked(3, 2.0)) == {"eigmax": 2.0, "eigmax/residual": 0.25}
    assert scalars(tracked(3, None)) == {}
    other = scalars(tracked(3, 2.0, "tracking-test"))
    assert other == {"tracking-test/eigmax": 2.0, "tracking-test/eigmax/residual": 0.25}


def test_tensorboard_holds_the_numbers_at_their_steps(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    sink = tensorboard_sink(tmp_path / "tb")
    assert not (tmp_path / "tb").exists()
    for row in (HISTORY, tracked(3, 2.0), tracked(9, 4.0)):
        sink(row)
    events = accumulator.EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("eigmax")] == [(3, 2.0), (9, 4.0)]
    assert [(e.step, e.value) for e in events.Scalars("train_loss")] == [(6, 0.5)]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The real wandb, without a network: its files go to a folder of the test's."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    for folder in ("CACHE", "CONFIG", "DATA", "ARTIFACT"):
        monkeypatch.setenv(f"WANDB_{folder}_DIR", str(tmp_path / folder.lower()))
    yield wandb
    wandb.teardown()


def logged(folder: Path) -> list[dict[str, Any]]:
    """The history in the run's file, which is whole when wandb's own process has ended."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()
    (path,) = folder.rglob("run-*.wandb")
    found = []
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            found.append(
                {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
            )
    return found


def records(data: bytes) -> Iterator[bytes]:
    """Of a LevelDB log after its header of seven bytes: blocks of 32 KiB, records with a length."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, or the last part
            yield whole
            whole = b""


def numbers(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith("_")}


def test_wandb_begins_a_run_of_its_own_offline(offline: Any, tmp_path: Path) -> None:
    sink = wandb_sink(project="curvature-test")
    for row in (tracked(3, 2.0), tracked(5, None), tracked(9, 4.0)):
        sink(row)
    offline.run.finish()
    assert [numbers(row) for row in logged(tmp_path)] == [
        {"curvature/eigmax": 2.0, "curvature/eigmax/residual": 0.25, "curvature/step": 3},
        {"curvature/eigmax": 4.0, "curvature/eigmax/residual": 0.25, "curvature/step": 9},
    ]


def test_in_anothers_wandb_run_the_steps_stay_its_own(offline: Any, tmp_path: Path) -> None:
    run = offline.init(project="curvature-test")
    sink = wandb_sink()
    for step in range(3):
        if step == 1:
            sink(tracked(100, 2.0))
        run.log({"loss": 1.0 / (step + 1)}, step=step)
    run.finish()
    history = logged(tmp_path)
    assert [row["loss"] for row in history] == pytest.approx([1, 1 / 2, 1 / 3])
    assert [row["_step"] for row in history] == [0, 1, 2]
    assert [row["curvature/eigmax"] for row in history if "curvature/eigmax" in row] == [2.0]


@pytest.mark.parametrize(
    ("make", "module", "extra"),
    [
        (lambda: tensorboard_sink("tb"), "torch.utils.tensorboard", "tensorboard"),
        (wandb_sink, "wandb", "wandb"),
    ],
    ids=["tensorboard", "wandb"],
)
def test_what_to_install_is_said(
    make: Any, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=rf"'curvature-toolkit\[{extra}\]'"):
        make()
