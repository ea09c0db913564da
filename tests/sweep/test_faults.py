"""Sweeps while the clock goes wrong or the memory ends."""

import itertools
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from curvature.runs.config import RunConfig
from curvature.runs.folder import RunFolder
from curvature.sweep import estimate, grid, sweep
from curvature.training import train
from tests.sweep.conftest import BASE, FEW, Inline, timeless

TROUBLE = "tests.sweep.troublemakers:"
PLAIN = replace(FEW, products="plain")
YEARS = {"past": 0, "future": 4_102_444_800}


@pytest.fixture
def backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at a clock gives an earlier time; only the monotonic one can't be set back."""
    for name, scale in (("time", 1), ("perf_counter", 1), ("time_ns", 10**9)):
        later = itertools.count(2 * 10**9, -3600)
        monkeypatch.setattr(time, name, lambda later=later, scale=scale: next(later) * scale)


def test_a_clock_that_goes_backwards_changes_no_row(
    tmp_path: Path, inline: Inline, request: pytest.FixtureRequest
) -> None:
    configs = grid(BASE, optimizers=["sgd", "sa-sam"], lr={None: [0.1, 1e38]})
    right = sweep(configs, tmp_path / "right", analyses=[PLAIN], executor=inline)
    request.getfixturevalue("backwards")
    found = estimate(configs, tmp_path / "wrong", analyses=[PLAIN], executor=inline)
    assert found.runs_left == 4
    wrong = sweep(configs, tmp_path / "wrong", analyses=[PLAIN], executor=inline)
    assert wrong.statuses == right.statuses
    assert timeless(wrong.rows()) == timeless(right.rows())


def test_a_training_goes_on_while_the_clock_goes_back(tmp_path: Path, backwards: None) -> None:
    config = RunConfig(model="mlp:hidden=8,depth=1", epochs=2, batch_size=500)
    stops = itertools.count(1)
    part = train(config, tmp_path / "parts", stop=lambda: next(stops) == 3)
    assert (part.status, part.step) == ("interrupted", 3)
    parts, whole = train(config, tmp_path / "parts"), train(config, tmp_path / "whole")
    assert timeless(list(parts.rows)) == timeless(list(whole.rows))
    assert timeless(list(parts.history)) == timeless(list(whole.history))


@pytest.mark.parametrize("year", YEARS)
def test_files_of_another_time_are_not_made_again(
    year: str, tmp_path: Path, inline: Inline
) -> None:
    configs = grid(BASE, optimizers=["sgd"], seeds=2)
    first = sweep(configs, tmp_path, analyses=[PLAIN], executor=inline)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    for path in files:
        os.utime(path, (YEARS[year], YEARS[year]))
    before = inline.submitted
    again = sweep(configs, tmp_path, analyses=[PLAIN], executor=inline)
    assert inline.submitted == before
    assert again.rows() == first.rows()
    assert {path.stat().st_mtime for path in files} == {YEARS[year]}


@pytest.mark.parametrize("name", ["LacksMemory", "LacksMemoryForReal"])
def test_what_lacks_memory_is_tried_twice_and_recorded(
    name: str, tmp_path: Path, inline: Inline
) -> None:
    marker = tmp_path / "marker"
    base = replace(BASE, optimizer_options=(f"marker={marker}",))
    (config,) = configs = grid(base, optimizers=[TROUBLE + name])
    told: list[str] = []
    root = tmp_path / "sweep"
    result = sweep(configs, root, analyses=[PLAIN], executor=inline, announce=told.append)
    assert result.statuses == {config.id: "failed"}
    assert "memory" in result.messages[config.id]
    assert len(marker.read_text().splitlines()) == 2
    assert sum("trying once more" in line for line in told) == 1
    assert RunFolder(root / config.id).status == "failed"
    assert {row["status"] for row in result.rows()} == {"failed"}


def test_what_lacked_memory_once_is_done(tmp_path: Path, inline: Inline) -> None:
    marker = tmp_path / "marker"
    base = replace(BASE, optimizer_options=(f"marker={marker}",))
    (config,) = configs = grid(base, optimizers=[f"{TROUBLE}LackedMemory"])
    result = sweep(configs, tmp_path / "sweep", analyses=[PLAIN], executor=inline)
    assert result.statuses == {config.id: "done"}
    assert result.messages == {}
    assert {row["status"] for row in result.rows()} == {"ok"}
