"""Train what a `RunConfig` says, into the folder of the run; go on where it stopped."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from curvature.datasets.dataset import Dataset
from curvature.devices import resolve_device
from curvature.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from curvature.runs.config import RunConfig
from curvature.runs.files import CannotWriteError
from curvature.runs.folder import FINISHED, RunFolder, part_name
from curvature.runs.loading import load_weights
from curvature.runs.rows import TRACKING
from curvature.runs.table import read_rows, write_rows
from curvature.training.loop import Callback, Ending, Hooks, end_epoch, run_steps
from curvature.training.results import Part, final_rows, headline, parts_to_evaluate
from curvature.training.state import State, capture, is_finite, own_randomness, restore
from curvature.training.task import Task, build
from curvature.training.watch import Progress, Row


@dataclass(frozen=True)
class TrainingResult:
    """A run as it is on disk. ``status``: done, diverged or interrupted; ``message`` says why."""

    folder: RunFolder
    status: str
    step: int
    epoch: int
    metrics: dict[str, Any]
    history: tuple[Row, ...]
    rows: tuple[Row, ...]
    message: str | None = None

    @property
    def checkpoint(self) -> Path:
        """The newest state; at a divergence the last finite one."""
        return self.folder.checkpoint


def train(
    config: RunConfig,
    root: str | os.PathLike[str] = "runs",
    *,
    device: str = "auto",
    callbacks: Sequence[Callback] = (),
    sinks: Sequence[Callable[[Row], object]] = (),
    report: Callable[[Progress], object] | None = None,
    announce: Callable[[str], None] | None = None,
    stop: Callable[[], bool] | None = None,
    resume: bool = True,
    checkpoint_every: int | None = None,
    evaluate_on: Sequence[str] = ("val", "test"),
) -> TrainingResult:
    """Train into ``root``/<id>; a run begun there goes on exactly, a finished one is returned.

    ``callbacks``, called (step, model, optimizer) after each step, return rows or None; ``sinks``
    get each row of history; ``stop`` is asked after each step. ``checkpoint_every`` epochs, or
    steps where ``config.steps`` is set, one is kept. A divergence is a status, not an error.
    """
    say = announce or (lambda line: None)
    folder = RunFolder(Path(root) / config.id)
    if resume and folder.status in FINISHED and folder.checkpoint.exists():
        _evaluate_the_rest(config, folder, device, evaluate_on, say)
        return _as_on_disk(folder)
    task = build(config, resolve_device(device), announce=say)
    parts = parts_to_evaluate(task, evaluate_on, say)
    validation = next((part.data for part in parts if part.name == "val"), None)
    RunFolder.create(root, config)
    with own_randomness(task), _recorded(folder):
        state = _begin(task, folder, resume, say)
        hooks = _hooks(task, state, folder, checkpoint_every, validation)
        hooks = replace(hooks, callbacks=callbacks, sinks=sinks, report=report, stop=stop)
        if state.step == 0:
            hooks.save()
        ending = run_steps(task, state, hooks)
        if ending.status == "diverged":
            end_epoch(task, state, hooks, **asdict(ending))
        _finish(task, state, folder, ending, parts)
    return _as_on_disk(folder)


def _evaluate_the_rest(
    config: RunConfig,
    folder: RunFolder,
    device: str,
    evaluate_on: Sequence[str],
    say: Callable[[str], None],
) -> None:
    """A finished run on what was not asked for when it was trained."""
    missing = [
        asked for asked in evaluate_on if not folder.rows(f"evaluation-{part_name(asked)}").exists()
    ]
    status = f"Run {config.id} is {folder.status} already, in {folder.path}"
    if not missing:
        say(f"{status}: nothing to do.")
        return
    task = build(config, resolve_device(device), announce=say)
    parts = parts_to_evaluate(task, missing, say)
    checkpoint = load_checkpoint(folder.checkpoint)
    load_weights(task.model, checkpoint.weights)
    for part in parts:
        rows = final_rows(task, checkpoint, part, checkpoint.metrics.get("message"))
        write_rows(folder.rows(f"evaluation-{part.name}"), rows)
    done = ", ".join(f"{part.split} of {part.spec}" for part in parts)
    say(f"{status}: " + (f"evaluated on {done}." if done else "nothing to do."))


def _begin(task: Task, folder: RunFolder, resume: bool, say: Callable[[str], None]) -> State:
    if not (resume and folder.checkpoint.exists()):
        return State(order=task.order.get_state())
    checkpoint = load_checkpoint(folder.checkpoint)
    if checkpoint.config is None or checkpoint.config.id != task.config.id:
        raise ValueError(
            f"{folder.checkpoint} is not of the run {task.config.id}: move it away, or start over."
        )
    state = restore(task, checkpoint, _read(folder.history), _read(folder.rows(TRACKING)), say)
    say(f"Going on with run {task.config.id} after step {state.step} of {task.steps}.")
    return state


def _hooks(
    task: Task, state: State, folder: RunFolder, every: int | None, validation: Dataset | None
) -> Hooks:
    by_step = task.config.steps is not None
    keep = None if every is None else every * (1 if by_step else task.steps_per_epoch)

    def due(step: int) -> bool:
        return keep is not None and step % keep == 0

    def save() -> None:
        checkpoint = capture(task, state, "running", headline(state))
        _write(folder, state, checkpoint)
        if due(state.step):
            epoch = state.step // task.steps_per_epoch
            kept = folder.step_checkpoint(state.step) if by_step else folder.epoch_checkpoint(epoch)
            save_checkpoint(kept, checkpoint)
        folder.set_status("running", epoch=checkpoint.epoch, step=state.step)

    return Hooks(save, due, validation=validation)


def _finish(
    task: Task,
    state: State,
    folder: RunFolder,
    ending: Ending,
    parts: Sequence[Part],
) -> None:
    status, message = ending.status, ending.message
    metrics = headline(state) | ({"message": message} if message else {})
    if status == "diverged" and not is_finite(task):
        last = load_checkpoint(folder.checkpoint)  # the last finite weights, and their step
        checkpoint = replace(last, status=status, metrics=last.metrics | metrics)
    else:
        checkpoint = capture(task, state, status, metrics)
    if status in FINISHED:
        for part in parts:
            rows = final_rows(task, checkpoint, part, message)
            write_rows(folder.rows(f"evaluation-{part.name}"), rows)
            metrics |= part.metrics(rows)
        checkpoint = replace(checkpoint, metrics=checkpoint.metrics | metrics)
    _write(folder, state, checkpoint)
    about = {"message": message} if message else {}
    folder.set_status(status, epoch=checkpoint.epoch, step=checkpoint.step, **about)


def _write(folder: RunFolder, state: State, checkpoint: Checkpoint) -> None:
    """The rows first: those of steps after the checkpoint's are dropped when the run goes on."""
    write_rows(folder.history, state.history)
    if state.tracked:
        write_rows(folder.rows(TRACKING), state.tracked)
    save_checkpoint(folder.checkpoint, checkpoint)


@contextmanager
def _recorded(folder: RunFolder) -> Iterator[None]:
    """Say in the status how the run ended, where it ended by an exception."""
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | CannotWriteError)
        about = {} if stopped else {"message": f"{type(error).__name__}: {error}"}
        folder.set_status("interrupted" if stopped else "failed", **about)
        raise


def _as_on_disk(folder: RunFolder) -> TrainingResult:
    checkpoint = load_checkpoint(folder.checkpoint)
    evaluations = sorted((folder.path / "rows").glob("evaluation-*.jsonl"))
    return TrainingResult(
        folder=folder,
        status=folder.status,
        step=checkpoint.step,
        epoch=checkpoint.epoch,
        metrics=checkpoint.metrics,
        history=tuple(_read(folder.history)),
        rows=tuple(row for path in evaluations for row in read_rows(path)),
        message=checkpoint.metrics.get("message"),
    )


def _read(path: Path) -> list[Row]:
    return read_rows(path) if path.exists() else []
