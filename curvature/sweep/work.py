"""The works of a sweep: train a run, or measure one that is trained; each its files on disk.

What loads torch is imported where a worker calls it: the sweep itself only looks at files.
"""

import os
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from curvature.runs.config import AnalysisConfig, RunConfig
from curvature.runs.files import CannotWriteError, read_json, write_text
from curvature.runs.folder import FINISHED, RunFolder, part_name
from curvature.runs.table import Row, read_rows, write_rows
from curvature.sweep.absent import absent_evaluation, absent_measures
from curvature.sweep.lock import locked

GRADIENTS = {"sam": 2, "sa-sgd": 2, "sa-sam": 3}  # a step; all others 1
TRACEBACK = "error.txt"
MESSAGE = 400  # characters of an error that go into the table


@dataclass(frozen=True)
class Outcome:
    """What became of a work: done, diverged or failed, and why."""

    status: str
    message: str | None = None
    again: bool = False  # it may go better another time


@dataclass(frozen=True)
class Work:
    """Train ``config`` and evaluate it on the parts named; or, where there is one, its analysis."""

    root: Path
    config: RunConfig
    analysis: AnalysisConfig | None = None
    evaluate_on: tuple[str, ...] = ()
    device: str = "auto"

    @property
    def folder(self) -> RunFolder:
        """The run's."""
        return RunFolder(self.root / self.config.id)

    @property
    def rows(self) -> list[Path]:
        """The files of rows that it makes."""
        if self.analysis is not None:
            return [self.folder.rows(self.analysis.id)]
        return [self.folder.rows(f"evaluation-{part_name(each)}") for each in self.evaluate_on]

    def __str__(self) -> str:
        c = self.config
        what = "training" if self.analysis is None else f"analysis {self.analysis.id}"
        cell = f"{c.optimizer} lr={c.lr:g} weight_decay={c.weight_decay:g} seed={c.seed}"
        return f"{what} of {c.id} ({cell})"


@dataclass(frozen=True)
class Costs:
    """Seconds of one gradient of a step, of a run's beginning and evaluations, of each analysis."""

    device: str
    parameters: int
    steps: int
    gradient: float
    besides: float
    analyses: dict[str, float]

    def of(self, work: Work) -> float:
        """Seconds that ``work`` is expected to take one process."""
        if work.analysis is not None:
            return self.analyses[work.analysis.id]
        gradients = GRADIENTS.get(work.config.optimizer, 1)
        return self.steps * gradients * self.gradient + self.besides


def works_of(
    configs: Iterable[RunConfig],
    root: str | os.PathLike[str],
    analyses: Iterable[AnalysisConfig],
    evaluate_on: Iterable[str],
    device: str,
) -> list[Work]:
    """Run by run, its training before its analyses; what is the same stands once.

    Products are plain unless asked otherwise, so that processes give the same digits.
    """
    runs = {config.id: config for config in configs}.values()
    plain = (replace(each, products=each.products or "plain") for each in analyses)
    measures = {each.id: each for each in plain}.values()
    parts = tuple(dict.fromkeys(evaluate_on))
    return [
        Work(Path(root), config, analysis, parts, device)
        for config in runs
        for analysis in (None, *measures)
    ]


def on_disk(work: Work) -> Outcome | None:
    """What became of it, if it is there."""
    try:
        if work.analysis is not None:
            return _analyzed(work.rows[0])
        status = work.folder.status
        message = None if status == "new" else read_json(work.folder.status_file, "").get("message")
    except ValueError:  # damaged: do it again, which says so where that can't be
        return None
    if status == "failed":
        return Outcome(status, message)
    there = work.folder.checkpoint.exists() and all(path.exists() for path in work.rows)
    return Outcome(status, message) if status in FINISHED and there else None


def perform(work: Work, *, again: bool = False) -> Outcome | None:
    """Do it unless it is done; None where another process is at this run.

    ``again``: even if it is recorded as failed. Called in a worker, whatever goes wrong is told
    in the outcome: what a run raises may not pickle.
    """
    with locked(work.folder.path) as mine:
        if not mine:
            return None
        there = on_disk(work)
        if there is not None and not (again and there.status == "failed"):
            return there
        for left_over in work.folder.path.rglob(".*.tmp"):  # of a process that was killed
            left_over.unlink()
        try:
            from curvature.sweep import doing

            if work.analysis is None:
                return doing.train_run(work)
            return doing.analyze_run(work, work.analysis)
        except CannotWriteError:  # not this run's fault: the sweep ends, and goes on another time
            raise
        except Exception as error:
            write_text(work.folder.path / TRACEBACK, traceback.format_exc())
            return Outcome("failed", message_of(error), again=_is_out_of_memory(error))


def check(works: Sequence[Work]) -> tuple[str, ...]:
    """In a worker: refuse what can't work; the parts that the data have, of those to evaluate."""
    from curvature.sweep import ahead

    return ahead.check(works)


def measure(works: Sequence[Work]) -> Costs:
    """In a worker: what the works cost."""
    from curvature.sweep import ahead

    return ahead.measure(works)


def record_failure(work: Work, message: str) -> bool:
    """Write the rows that say so, unless another process goes on with the run."""
    with locked(work.folder.path) as mine:
        if not mine:
            return False
        if work.analysis is not None:
            write_rows(work.rows[0], absent_measures(work, work.analysis, "failed", message))
            return True
        RunFolder.create(work.root, work.config)
        for asked, path in zip(work.evaluate_on, work.rows, strict=True):
            if not path.exists():
                write_rows(path, absent_evaluation(work, asked, "failed", message))
        if work.folder.status not in FINISHED:
            work.folder.set_status("failed", message=message)
    return True


def outcome_of(rows: Iterable[Row]) -> Outcome:
    """Of an analysis, by its rows."""
    for row in rows:
        if row.get("status") in ("failed", "diverged"):
            return Outcome(row["status"], row.get("message"))
    return Outcome("done")


def message_of(error: BaseException) -> str:
    """Its kind and what it says, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MESSAGE]


def _analyzed(path: Path) -> Outcome | None:
    if not path.exists():
        return None
    return outcome_of(read_rows(path))


def _is_out_of_memory(error: Exception) -> bool:
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and "allocate memory" in str(error))
