"""The works of a sweep: train a run, or measure one that is trained; each its files on disk."""

import os
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from curvature.analysis import analyze
from curvature.devices import resolve_device
from curvature.runs.checkpoint import load_checkpoint
from curvature.runs.config import AnalysisConfig, RunConfig
from curvature.runs.files import read_json, write_text
from curvature.runs.folder import RunFolder
from curvature.runs.table import read_rows, write_rows
from curvature.sweep.absent import absent_evaluation, absent_measures
from curvature.sweep.lock import locked
from curvature.sweep.process import ending_gracefully, stopping
from curvature.training import TrainingResult, train
from curvature.training.results import final_rows, part_name, parts_to_evaluate
from curvature.training.run import FINISHED
from curvature.training.task import build

TRACEBACK = "error.txt"
MESSAGE = 400  # characters of an error that go into the table


@dataclass(frozen=True)
class Outcome:
    """What became of a work: done, diverged, failed or interrupted, and why."""

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


def works_of(
    configs: Iterable[RunConfig],
    root: str | os.PathLike[str],
    analyses: Iterable[AnalysisConfig],
    evaluate_on: Iterable[str],
    device: str,
) -> list[Work]:
    """Run by run, its training before its analyses; what is the same stands once."""
    runs = {config.id: config for config in configs}.values()
    measures = {each.id: each for each in analyses}.values()
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
            return _train(work) if work.analysis is None else _analyze(work, work.analysis)
        except Exception as error:
            write_text(work.folder.path / TRACEBACK, traceback.format_exc())
            return Outcome("failed", message_of(error), again=_is_out_of_memory(error))


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
            write_rows(path, absent_evaluation(work, asked, "failed", message))
        work.folder.set_status("failed", message=message)
    return True


def message_of(error: BaseException) -> str:
    """Its kind and what it says, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MESSAGE]


def _analyzed(path: Path) -> Outcome | None:
    if not path.exists():
        return None
    for row in read_rows(path):
        if row.get("status") in ("failed", "diverged"):
            return Outcome(row["status"], row.get("message"))
    return Outcome("done")


def _train(work: Work) -> Outcome:
    with ending_gracefully():
        result = train(
            work.config,
            work.root,
            device=work.device,
            evaluate_on=work.evaluate_on,
            stop=stopping,
        )
    if result.status in FINISHED:
        _evaluate_the_rest(work, result)
    return Outcome(result.status, result.message)


def _evaluate_the_rest(work: Work, result: TrainingResult) -> None:
    """On what was not asked for when the run was trained."""
    missing = [
        asked for asked, path in zip(work.evaluate_on, work.rows, strict=True) if not path.exists()
    ]
    if not missing:
        return
    task = build(work.config, resolve_device(work.device))
    checkpoint = load_checkpoint(result.checkpoint)
    task.model.load_state_dict(checkpoint.weights, strict=False)
    for part in parts_to_evaluate(work.config, missing, task.device, lambda line: None):
        rows = final_rows(task, checkpoint, part, result.message)
        write_rows(work.folder.rows(f"evaluation-{part.name}"), rows)


def _analyze(work: Work, config: AnalysisConfig) -> Outcome:
    checkpoint = load_checkpoint(work.folder.checkpoint)
    name = f"{work.config.id}/{work.folder.checkpoint.name}"  # the whole folder may move
    if checkpoint.status == "diverged":
        message = checkpoint.metrics.get("message")
        rows = absent_measures(work, config, "diverged", message, step=checkpoint.step)
    else:
        try:
            rows = [{"checkpoint": name, **row} for row in analyze(checkpoint, config)]
        except FloatingPointError as error:
            rows = absent_measures(work, config, "diverged", str(error), step=checkpoint.step)
    write_rows(work.rows[0], rows)
    return _analyzed(work.rows[0]) or Outcome("done")


def _is_out_of_memory(error: Exception) -> bool:
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and "allocate memory" in str(error))
