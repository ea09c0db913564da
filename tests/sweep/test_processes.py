"""Sweeps in processes that die, hang, are killed, interrupted, or meet each other."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from curvature.runs.config import AnalysisConfig, RunConfig
from curvature.runs.table import read_table
from curvature.sweep import LocalExecutor, SweepResult, grid, process, sweep
from curvature.sweep.lock import locked
from tests.sweep.conftest import BASE, FEW, Inline, timeless

ROOT = Path(__file__).resolve().parents[2]
TROUBLE = "tests.sweep.troublemakers:"


def test_several_processes_give_the_table_of_one(
    tmp_path: Path, inline: Inline, processes: LocalExecutor
) -> None:
    configs = grid(BASE, optimizers=["sgd", "sa-sam"], lr={None: [0.01, 0.1, 1e38]})
    several = sweep(configs, tmp_path / "2", analyses=[FEW], executor=processes)
    one = sweep(configs, tmp_path / "1", analyses=[FEW], executor=inline)
    assert timeless(several.rows()) == timeless(one.rows())


def test_a_process_that_dies_is_tried_once_more(tmp_path: Path, processes: LocalExecutor) -> None:
    marked = replace(BASE, optimizer_options=(f"marker={tmp_path / 'marker'}",))
    configs = [
        *grid(BASE, optimizers=["sgd"]),
        *grid(marked, optimizers=[f"{TROUBLE}DiesOnce", f"{TROUBLE}Dies"]),
    ]
    result = sweep(configs, tmp_path / "sweep", analyses=[FEW], executor=processes)
    assert [result.statuses[c.id] for c in configs] == ["done", "done", "failed"]
    assert "SIGKILL" in result.messages[configs[2].id]
    rows = [row for row in result.rows() if row["run"] == configs[2].id]
    assert {row["status"] for row in rows} == {"failed"}


def test_a_process_that_hangs_is_killed_and_recorded(tmp_path: Path) -> None:
    configs = grid(BASE, optimizers=["sgd", f"{TROUBLE}Hangs"])
    result = sweep(configs, tmp_path, timeout=4)
    assert [result.statuses[c.id] for c in configs] == ["done", "failed"]
    assert "killed after 4" in result.messages[configs[1].id]


def test_two_sweeps_at_once_train_each_run_once(tmp_path: Path, processes: LocalExecutor) -> None:
    marker = tmp_path / "marker"
    base = replace(BASE, optimizer_options=(f"marker={marker}",))
    rates = [0.01 * k for k in range(1, 9)]
    configs = grid(base, optimizers=[f"{TROUBLE}Tells"], lr={None: rates})
    results: dict[str, SweepResult] = {}

    def go(name: str, order: list[RunConfig]) -> None:
        results[name] = sweep(order, tmp_path / "sweep", analyses=[FEW], executor=processes)

    threads = [
        threading.Thread(target=go, args=("a", configs)),
        threading.Thread(target=go, args=("b", configs[::-1])),
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(float(line) for line in marker.read_text().split()) == rates
    assert results["a"].statuses == results["b"].statuses == {c.id: "done" for c in configs}


def test_a_run_that_another_sweep_has_is_waited_for(tmp_path: Path, inline: Inline) -> None:
    (config,) = configs = grid(BASE, optimizers=["sgd"])
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(tmp_path / config.id) as mine:
            assert mine
            held.set()
            free.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(30)
    threading.Timer(0.5, free.set).start()
    result = sweep(configs, tmp_path, executor=inline)
    holder.join()
    assert result.statuses == {config.id: "done"}


ARGS = (
    *("--model", "mlp:hidden=8,depth=1,activation=tanh", "--steps", "300", "--batch-size", "300"),
    *("--optimizers", "sgd,sa-sam", "--lr", "0.01,0.1", "--examples", "20", "--max-passes", "8"),
)
CONFIGS = grid(  # the same
    replace(BASE, steps=300, batch_size=300),
    optimizers=["sgd", "sa-sam"],
    lr={None: [0.01, 0.1]},
)
ANALYSIS = AnalysisConfig(examples=20, max_passes=8, products="plain")


def start(out: Path, *args: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "curvature_cli.main", "sweep", *ARGS, "--out", str(out), *args],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_until(there: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.01)


def is_gone(group: int) -> bool:
    """No process of the session that the sweep began is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_killed_or_interrupted_sweep_goes_on_to_the_same_table(
    tmp_path: Path, inline: Inline
) -> None:
    moments = random.Random(0)
    root = tmp_path / "killed"
    for jobs, files in ((2, 1), (1, 4)):
        begun = start(root, "--jobs", str(jobs))
        wait_until(lambda n=files: len(list(root.rglob("*.jsonl"))) >= n)
        time.sleep(moments.uniform(0, 0.3))
        begun.kill()
        begun.wait(30)
        wait_until(lambda group=begun.pid: is_gone(group), 30)  # its processes end with it

    done = len(list(root.rglob("*.jsonl")))
    begun = start(root, "--jobs", "2")
    wait_until(lambda: len(list(root.rglob("*.jsonl"))) > done)
    os.killpg(begun.pid, signal.SIGINT)  # as a terminal does: to all of them
    assert begun.wait(30) == 130
    wait_until(lambda: is_gone(begun.pid), 10)

    uninterrupted = sweep(CONFIGS, tmp_path / "whole", analyses=[ANALYSIS], executor=inline)
    assert timeless(read_table(root)) != timeless(uninterrupted.rows())
    sweep(CONFIGS, root, analyses=[ANALYSIS], executor=inline)
    assert timeless(read_table(root)) == timeless(uninterrupted.rows())
    assert list(root.rglob(".*.tmp")) == []


def test_each_process_takes_a_gpu_of_its_own(tmp_path: Path) -> None:
    assert process.take(["0", "3"], tmp_path)[0] == "0"
    name, file = process.take(["0", "3"], tmp_path)
    assert name == "3"
    os.close(file)  # as the end of the process does
    assert process.take(["0", "3"], tmp_path)[0] == "3"


@pytest.mark.parametrize("limits", [{"jobs": 0}, {"threads": 0}, {"timeout": 0.0}])
def test_limits_that_make_no_sense_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(limits))):
        LocalExecutor(**limits)
