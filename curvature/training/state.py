"""Where a run stands, and how that becomes a checkpoint and comes back bit by bit."""

import math
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from curvature._version import __version__
from curvature.runs.checkpoint import Checkpoint
from curvature.runs.loading import load_weights
from curvature.training.task import Task
from curvature.training.watch import Meter, Row

VERSIONS = {
    "curvature": __version__,
    "torch": str(torch.__version__),
    "python": platform.python_version(),
}


@dataclass
class State:
    """What changes from step to step, apart from what the task's own objects hold.

    ``order`` is the data generator's state where the present epoch began: its batches are drawn
    from it again, and those done already left out. ``history`` and ``tracked`` are rows.
    """

    order: Tensor
    step: int = 0
    meter: Meter = field(default_factory=Meter)
    gradients: int = 0
    seconds: float = 0.0
    history: list[Row] = field(default_factory=list)
    tracked: list[Row] = field(default_factory=list)

    @property
    def accuracy(self) -> float | None:
        """On the validation images, after the last epoch that is complete."""
        return self.history[-1].get("val_accuracy") if self.history else None


@contextmanager
def own_randomness(task: Task) -> Iterator[None]:
    """Give the run torch's global random state, seeded; put the caller's back at the end."""
    cuda = [task.device] if task.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(task.noise)
        yield


def capture(task: Task, state: State, status: str, metrics: dict[str, Any]) -> Checkpoint:
    """Everything that going on from here takes."""
    random_states = {"torch": torch.get_rng_state(), "order": state.order}
    if task.device.type == "cuda":
        random_states["cuda"] = torch.cuda.get_rng_state(task.device)
    progress: dict[str, Any] = {"gradients": state.gradients, "seconds": state.seconds}
    if state.meter.steps:
        progress["epoch_so_far"] = state.meter.state()
    return Checkpoint(
        weights=tensors(task),
        config=task.config,
        optimizer=task.optimizer.state_dict(),
        epoch=state.step // task.steps_per_epoch,
        step=state.step,
        metrics={**metrics, **progress},
        random_states=random_states,
        versions=dict(VERSIONS),
        status=status,
    )


def restore(
    task: Task,
    checkpoint: Checkpoint,
    history: list[Row],
    tracked: list[Row],
    announce: Callable[[str], None],
) -> State:
    """Load the checkpoint into the task's objects; rows of later steps are forgotten.

    Raises:
        ValueError: if it isn't a state of this network, or not one to go on from.
    """
    if checkpoint.optimizer is None or not {"torch", "order"} <= set(checkpoint.random_states):
        raise ValueError(
            f"The checkpoint of run {task.config.id} has no optimizer state or random states, so "
            "the run can't go on from it: start over (--restart)."
        )
    load_weights(task.model, checkpoint.weights)
    task.optimizer.load_state_dict(checkpoint.optimizer)
    states = checkpoint.random_states
    torch.set_rng_state(states["torch"])
    if task.device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], task.device)
    elif (task.device.type == "cuda") != ("cuda" in states):
        announce("It goes on on another kind of device than before: not bit by bit the same.")
    before = checkpoint.config
    if before and before.compile != task.config.compile:
        how = "with" if task.config.compile else "without"
        announce(f"It goes on {how} `compile`, unlike before: not bit by bit the same.")
    for name, version in checkpoint.versions.items():
        if name == "torch" and version != VERSIONS["torch"]:
            announce(f"It began with torch {version}, this is {VERSIONS['torch']}: numbers differ.")
    kept = checkpoint.metrics
    step = checkpoint.step
    return State(
        order=states["order"],
        step=step,
        meter=Meter(**kept.get("epoch_so_far", {})),
        gradients=kept.get("gradients", 0),
        seconds=kept.get("seconds", 0.0),
        history=[row for row in history if row["step"] <= step],
        tracked=[row for row in tracked if row["step"] <= step],
    )


def tensors(task: Task) -> dict[str, Tensor]:
    """The model's state dict, weights and buffers."""
    state = task.model.state_dict()
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def is_finite(task: Task) -> bool:
    """No weight or buffer is NaN or infinite."""
    floating = [t for t in tensors(task).values() if t.is_floating_point()]
    return all(math.isfinite(float(t.abs().max())) for t in floating if t.numel())
