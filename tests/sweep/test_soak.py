"""Killed at twenty random moments, a sweep and a training end as if nothing had happened.

Takes minutes: `make soak`.
"""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from curvature.runs.checkpoint import load_checkpoint
from curvature.runs.folder import RunFolder
from curvature.runs.table import read_rows, read_table
from tests.sweep.conftest import timeless
from tests.sweep.test_processes import ROOT, is_gone, start, wait_until
from tests.training.test_resume import LONG, assert_same_state, command, config

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
KILLS = 20


def seconds_of(begun: "subprocess.Popen[bytes]") -> float:
    since = time.monotonic()
    assert begun.wait(300) == 0
    return time.monotonic() - since


def killed_until_done(
    begin: Callable[[Path], "subprocess.Popen[bytes]"],
    compare: Callable[[Path], None],
    root: Path,
    seconds: float,
    draw: random.Random,
) -> None:
    """Kill at moments of the time that a whole one takes; whenever one is done, start another."""
    kills, number = 0, 0
    while kills < KILLS:
        folder = root / str(number)
        begun = begin(folder)
        try:
            begun.wait(draw.uniform(seconds / 2, seconds))  # before, it only imports
        except subprocess.TimeoutExpired:
            whole_group = draw.random() < 0.5
            os.killpg(begun.pid, signal.SIGKILL) if whole_group else begun.kill()
            begun.wait(30)
            wait_until(lambda group=begun.pid: is_gone(group), 30)
            kills += 1
            continue
        assert begun.returncode == 0
        compare(folder)
        number += 1
    assert begin(folder).wait(300) == 0
    compare(folder)


def test_a_sweep_killed_at_random(tmp_path: Path) -> None:
    seconds = seconds_of(start(tmp_path / "whole", "--jobs", "2"))
    expected = timeless(read_table(tmp_path / "whole"))

    def compare(folder: Path) -> None:
        assert timeless(read_table(folder)) == expected
        assert list(folder.rglob(".*.tmp")) == []

    killed_until_done(
        lambda folder: start(folder, "--jobs", "2"), compare, tmp_path, seconds, random.Random(0)
    )


def test_a_training_killed_at_random(tmp_path: Path) -> None:
    run = config("sa-sam", **LONG).id

    def begin(root: Path) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            command(root, "sa-sam"),
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    seconds = seconds_of(begin(tmp_path / "whole"))
    whole = RunFolder(tmp_path / "whole" / run)
    checkpoint = load_checkpoint(whole.checkpoint)

    def compare(root: Path) -> None:
        folder = RunFolder(root / run)
        assert timeless(read_rows(folder.history)) == timeless(read_rows(whole.history))
        assert timeless(read_table(root)) == timeless(read_table(tmp_path / "whole"))
        assert_same_state(load_checkpoint(folder.checkpoint), checkpoint)

    killed_until_done(begin, compare, tmp_path, seconds, random.Random(1))


def test_two_sweeps_at_once_make_one_table(tmp_path: Path) -> None:
    assert start(tmp_path / "one").wait(300) == 0
    both = [start(tmp_path / "two") for _ in range(2)]
    assert [begun.wait(300) for begun in both] == [0, 0]
    assert timeless(read_table(tmp_path / "two")) == timeless(read_table(tmp_path / "one"))
