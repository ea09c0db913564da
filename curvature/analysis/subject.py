"""What is analysed: a checkpoint's network on the data asked for, as an empirical risk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from curvature import datasets, models
from curvature._version import __version__
from curvature.datasets.batches import choose, fixed
from curvature.datasets.dataset import Dataset
from curvature.devices import resolve_device
from curvature.empirical_risk import EmpiricalRisk
from curvature.runs.checkpoint import Checkpoint
from curvature.runs.config import AnalysisConfig
from curvature.runs.loading import load_weights
from curvature.runs.rows import measured_on
from curvature.runs.weights import check_finite

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Subject:
    """A checkpoint's network as a risk on the data asked for, with what its rows have in common."""

    risk: EmpiricalRisk
    provenance: dict[str, Any]
    weight_decay: float
    notes: tuple[str, ...]


def load_subject(checkpoint: Checkpoint, config: AnalysisConfig) -> Subject:
    """Build the model, load the weights and take the examples, on the device asked for."""
    check_finite(checkpoint.weights)
    run = checkpoint.config
    model_spec = config.model or (run.model if run else None)
    data_spec = config.data or (run.data if run else None)
    loss = config.loss or (run.loss if run else "cross_entropy")
    if model_spec is None:
        raise ValueError("The checkpoint doesn't say its model: add `--model NAME`.")
    if data_spec is None:
        raise ValueError("The checkpoint doesn't say its data: add `--data NAME[:DIR]`.")
    if config.with_weight_decay and run is None:
        raise ValueError("The checkpoint doesn't say its weight decay, so it can't be counted in.")

    data = datasets.load(data_spec, config.split)
    shape: dict[str, Any] = {}
    batches: Any = data
    if isinstance(data, Dataset):
        generator = torch.Generator().manual_seed(config.seed)
        data = choose(data, examples=config.examples, first=config.first, generator=generator)
        shape = {"input_shape": data.input_shape, "classes": data.classes}
        batches = list(fixed(data, config.batch_size))
    elif config.examples or config.first:
        raise ValueError("`examples` and `first` need a data set of tensors, not batches.")
    device = resolve_device(config.device)
    model_spec = models.fitting(model_spec, checkpoint.weights)
    model = models.build(model_spec, **shape)
    notes = (*checkpoint.notes, *load_weights(model, checkpoint.weights))
    dtype = _DTYPES[config.dtype]
    risk = EmpiricalRisk(
        model.to(device, dtype),
        loss,
        batches,
        params=config.params,
        micro_batch=config.micro_batch,
        mode="train" if config.batchnorm == "train" else "eval",
        tf32=config.tf32,
    )
    weight_decay = run.weight_decay if run is not None and config.with_weight_decay else 0.0
    provenance = {
        "run": run.id if run else checkpoint.hash,
        "analysis": config.id,
        "step": checkpoint.step,
        "checkpoint_hash": checkpoint.hash,
        "model": model_spec,
        "parameters": risk.size,
        "data": data_spec,
        "data_name": data.name if isinstance(data, Dataset) else data_spec,
        "data_hash": data.hash if isinstance(data, Dataset) else risk.data_hash,
        "split": config.split,
        "on": measured_on(data_spec, config.split, run.data if run else None),
        "pooled_over": _groupings(data) or None,
        "examples": risk.survey.examples,
        "batch_size": config.batch_size,
        "loss": loss,
        "reduction": risk.reduction,
        "batchnorm": config.batchnorm,
        "weight_decay_counted": weight_decay,
        "device": str(device),
        "dtype": config.dtype,
        "tf32": config.tf32,
        "seed": config.seed,
        "curvature": __version__,
        "torch": torch.__version__,
        "params": " ".join(config.params) or None,
    }
    if run:
        provenance |= run.as_columns()
    return Subject(risk, provenance, weight_decay, (*notes, *risk.notes))


def _groupings(data: Any) -> str:
    """The kinds of examples that are measured as one, as `corruption, severity`."""
    groups = data.groups if isinstance(data, Dataset) else {}
    return ", ".join(name for name, (codes, _) in groups.items() if len(torch.unique(codes)) > 1)
