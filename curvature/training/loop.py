"""The loop: steps, epochs, and what is done between them."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from curvature.datasets.dataset import Dataset
from curvature.runs.rows import TRACKING
from curvature.training.evaluation import evaluate
from curvature.training.state import State, is_finite
from curvature.training.task import Task
from curvature.training.watch import Meter, Progress, Row

SAVE_SECONDS = 60.0  # a longer epoch is saved in its midst too

Callback = Callable[[int, nn.Module, Optimizer], Iterable[Row] | None]


@dataclass(frozen=True)
class Hooks:
    """What happens between steps. ``due(step)``: a checkpoint of this step is to be kept."""

    save: Callable[[], object]
    due: Callable[[int], bool]
    callbacks: Sequence[Callback] = ()
    sinks: Sequence[Callable[[Row], object]] = ()
    report: Callable[[Progress], object] | None = None
    stop: Callable[[], bool] | None = None
    validation: Dataset | None = None


@dataclass(frozen=True)
class Ending:
    """How the steps ended: done, interrupted or diverged; then the ``step`` that failed, and why.

    The weights are those before that step, unless it is what made them infinite.
    """

    status: str
    step: int
    message: str | None = None


def run_steps(task: Task, state: State, hooks: Hooks) -> Ending:
    """Go on from where the state is, to the end."""
    saved = time.monotonic()
    while state.step < task.steps:
        task.order.set_state(state.order)
        batches = task.epoch()
        for i in range(state.step % task.steps_per_epoch, len(batches)):
            problem = _step(task, state, batches[i])
            if problem:
                return Ending("diverged", state.step + 1, problem)
            _tell(task, state, hooks)
            ended = i + 1 == len(batches) or state.step == task.steps
            if ended or hooks.due(state.step) or time.monotonic() - saved > SAVE_SECONDS:
                if not is_finite(task):
                    left = f"Step {state.step} left NaN or infinite weights."
                    return Ending("diverged", state.step, left)
                if ended:
                    end_epoch(task, state, hooks, status="ok")
                hooks.save()
                saved = time.monotonic()
            if state.step < task.steps and hooks.stop and hooks.stop():
                return Ending("interrupted", state.step)
            if ended:
                break
    return Ending("done", state.step)


def end_epoch(task: Task, state: State, hooks: Hooks, **about: Any) -> None:
    """Add a row of history about the epoch, or the part of one, that ended.

    ``about`` is its status, and of a divergence the step that failed and the message.
    """
    per_epoch = task.steps_per_epoch
    whole = state.step % per_epoch == 0
    if whole:
        state.order = task.order.get_state()
    epoch = state.step // per_epoch if whole else state.step / per_epoch
    row: Row = {"run": task.config.id, "epoch": epoch, "step": state.step, **state.meter.row()}
    if about["status"] == "ok":
        row |= _validated(task, state, hooks.validation)
    row |= {"gradients": state.gradients, "seconds": state.seconds, **about}
    state.history.append(row)
    state.meter = Meter()
    for sink in hooks.sinks:
        sink(row)


def _step(task: Task, state: State, batch: tuple[Tensor, Tensor]) -> str | None:
    """One step of the optimizer; what went wrong if it can't be taken."""
    start = time.perf_counter()
    task.model.train()
    if task.rate is not None:
        for group in task.optimizer.param_groups:
            group["lr"] = task.rate(state.step)
    closure = task.closure(batch)
    try:
        loss = task.optimizer.step(closure)
    except FloatingPointError as error:
        closure.restore_buffers()
        return str(error)
    done = task.optimizer.last_step
    assert done is not None
    state.step += 1
    state.gradients += done.gradients
    state.meter.add(float(loss), len(batch[1]), done)
    state.seconds += time.perf_counter() - start
    return None


def _tell(task: Task, state: State, hooks: Hooks) -> None:
    cuda = [task.device] if task.device.type == "cuda" else []
    for callback in hooks.callbacks:
        with torch.random.fork_rng(devices=cuda):  # looking on must not change the run
            rows = callback(state.step, task.model, task.optimizer) or ()
        epoch = state.step / task.steps_per_epoch
        about = {"analysis": TRACKING, "step": state.step, "epoch": epoch}
        own = {"run": task.config.id, **task.config.as_columns()}
        state.tracked += [{**about, **row, **own} for row in rows]
    if hooks.report:
        hooks.report(
            Progress(
                step=state.step,
                steps=task.steps,
                epoch=(state.step - 1) // task.steps_per_epoch + 1,
                epochs=-(-task.steps // task.steps_per_epoch),
                loss=state.meter.mean_loss,
                accuracy=state.accuracy,
                eta=state.meter.eta,
            )
        )


def _validated(task: Task, state: State, data: Dataset | None) -> Row:
    if data is None:
        return {}
    start = time.perf_counter()
    rows = evaluate(task.model, data, task.config.loss)
    state.seconds += time.perf_counter() - start
    return {
        f"val_{row['metric']}": row["value"]
        for row in rows
        if row["block"] is None and row["metric"] in ("loss", "accuracy")
    }
