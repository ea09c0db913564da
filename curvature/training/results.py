"""What a finished run is measured by: rows about parts of the data, with their provenance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from curvature import datasets
from curvature.datasets.dataset import Dataset
from curvature.runs.checkpoint import Checkpoint
from curvature.runs.folder import OWN_PARTS, part_name
from curvature.runs.rows import measured_on
from curvature.training.evaluation import METRICS, evaluate
from curvature.training.state import VERSIONS, State
from curvature.training.task import Task
from curvature.training.watch import Row


@dataclass(frozen=True)
class Part:
    """Data to evaluate on: a split of ``spec``, under a short name."""

    name: str
    spec: str
    split: str
    data: Dataset

    def metrics(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Its rows' numbers for the checkpoint, as `test_accuracy`: of the run's own data alone."""
        whole = [row for row in rows if row["block"] is None and self.name in OWN_PARTS]
        return {f"{self.name}_{row['metric']}": row["value"] for row in whole}


def parts_to_evaluate(
    task: Task, evaluate_on: Sequence[str], announce: Callable[[str], None]
) -> list[Part]:
    """``val`` and ``test`` are the run's own data, anything else is a data set's test part.

    Raises:
        ValueError: before the training, for what could not be evaluated after it.
    """
    parts = []
    config = task.config
    for asked in dict.fromkeys(evaluate_on):
        if asked in OWN_PARTS:
            try:
                data = datasets.load(config.data, asked, report=announce)
            except ValueError as error:  # not everyone's data have every part
                announce(f"No {asked} numbers: {error}")
                continue
        else:
            data = datasets.load(asked, "test", report=announce)
        if not isinstance(data, Dataset):
            raise ValueError(f"`{asked}` gives batches; to be evaluated it must be tensors.")
        if asked in OWN_PARTS and _the_same(data, task.data):
            announce(
                f"No {asked} numbers: `{config.data}` has no {asked} part, it gives the training "
                "data again."
            )
            continue
        if data.input_shape != task.data.input_shape:
            raise ValueError(
                f"`{asked}` has inputs of shape {data.input_shape}, the training data have "
                f"{task.data.input_shape}: the network can't be evaluated on it."
            )
        own = asked in OWN_PARTS
        spec, split = (config.data, asked) if own else (asked, "test")
        parts.append(Part(part_name(asked), spec, split, data.to(task.device)))
    return parts


def _the_same(a: Dataset, b: Dataset) -> bool:
    return len(a) == len(b) and a.hash == b.hash


def final_rows(task: Task, checkpoint: Checkpoint, part: Part, message: str | None) -> list[Row]:
    """The rows of one part; of a run that diverged, rows without a value that say so."""
    if checkpoint.status == "diverged":
        absent = {"block": None, "index": 0, "value": None, "status": "diverged"}
        rows: list[Row] = [{"metric": m, **absent, "message": message} for m in METRICS]
    else:
        rows = evaluate(task.model, part.data, task.config.loss)
    about = _provenance(task, checkpoint, part)
    return [{**about, **row} for row in rows]


def headline(state: State) -> dict[str, Any]:
    """The numbers of the last row of history, for the checkpoint."""
    last = state.history[-1] if state.history else {}
    wanted = ("train_loss", "val_loss", "val_accuracy", "eta", "theta", "rho", "gradient_norm")
    return {name: last[name] for name in wanted if last.get(name) is not None}


def _provenance(task: Task, checkpoint: Checkpoint, part: Part) -> Row:
    config = task.config
    return {
        "run": config.id,
        "analysis": f"evaluation-{part.name}",
        "step": checkpoint.step,
        "checkpoint_hash": checkpoint.hash,
        "model": config.model,
        "parameters": sum(p.numel() for p in task.model.parameters() if p.requires_grad),
        "data": part.spec,
        "data_name": part.data.name,
        "data_hash": part.data.hash,
        "split": part.split,
        "on": measured_on(part.spec, part.split, config.data),
        "loss": config.loss,
        "batchnorm": "eval",
        "device": str(task.device),
        "threads": torch.get_num_threads(),
        "dtype": "float32",
        "seed": config.seed,
        "curvature": VERSIONS["curvature"],
        "torch": VERSIONS["torch"],
        **config.as_columns(),
    }
