"""A grid of runs: trained, evaluated and analysed, each once, whatever is killed in between."""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from curvature.runs.config import AnalysisConfig, RunConfig
from curvature.runs.rows import Row
from curvature.runs.table import read_table
from curvature.sweep.estimation import Estimate, estimate
from curvature.sweep.grid import grid, values
from curvature.sweep.local import LocalExecutor
from curvature.sweep.progress import SweepProgress
from curvature.sweep.run import Run
from curvature.sweep.work import check, works_of

__all__ = [
    "Estimate",
    "LocalExecutor",
    "SweepProgress",
    "SweepResult",
    "estimate",
    "grid",
    "sweep",
    "values",
]


@dataclass(frozen=True)
class SweepResult:
    """By run: done, diverged or failed, and why."""

    root: Path
    statuses: dict[str, str]
    messages: dict[str, str]

    def rows(self) -> list[Row]:
        """The rows of these runs, of all that there are in the folder."""
        return [row for row in read_table(self.root) if row["run"] in self.statuses]


def sweep(
    configs: Iterable[RunConfig],
    root: str | os.PathLike[str] = "sweep",
    *,
    analyses: Sequence[AnalysisConfig] = (),
    evaluate_on: Sequence[str] = ("val", "test"),
    executor: Any = None,
    jobs: int = 1,
    threads: int = 1,
    timeout: float | None = None,
    device: str = "auto",
    retry_failed: bool = False,
    report: Callable[[SweepProgress], object] | None = None,
    announce: Callable[[str], None] | None = None,
) -> SweepResult:
    """Train, evaluate and analyse each config in a folder of its own; what is done is not redone.

    ``executor`` is anything with the ``submit`` of concurrent.futures; else ``jobs`` processes
    here, of ``threads`` each, and what takes one longer than ``timeout`` seconds is killed.
    What fails is recorded and the rest goes on; what died, hung or lacked memory is tried twice.
    """
    works = works_of(configs, root, analyses, evaluate_on, device)
    run = Run(works, retry_failed, report or _ignore, announce or _ignore)
    with ExitStack() as stack:
        if run.unsettled:
            if executor is None:
                executor = LocalExecutor(jobs, threads=threads, timeout=timeout)
                stack.callback(executor.shutdown, cancel_futures=True)
            parts = executor.submit(check, run.unsettled).result()
            works = [replace(work, evaluate_on=parts) for work in works]
            run = Run(works, retry_failed, report or _ignore, announce or _ignore)
            run.go(executor)
    return _result(Path(root), run)


def _ignore(told: object) -> None:
    pass


def _result(root: Path, run: Run) -> SweepResult:
    """Of a run's works the worst outcome counts."""
    rank = ["done", "diverged", "failed"]
    statuses: dict[str, str] = {}
    messages: dict[str, str] = {}
    for work, outcome in run.settled.items():
        before = statuses.get(work.config.id, "done")
        statuses[work.config.id] = max(before, outcome.status, key=rank.index)
        if outcome.message:
            messages.setdefault(work.config.id, outcome.message)
    return SweepResult(root, statuses, messages)
