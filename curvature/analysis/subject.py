"""What is analysed: a checkpoint's network on the data asked for, as an empirical risk."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from curvature import datasets, models, names
from curvature._version import __version__
from curvature.datasets.batches import choose, fixed
from curvature.datasets.dataset import Dataset
from curvature.devices import resolve_device
from curvature.empirical_risk import EmpiricalRisk
from curvature.losses import LOSSES
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


def load_subject(checkpoint: Checkpoint, config: AnalysisConfig, *, trust: bool = False) -> Subject:
    """Build the model, load the weights and take the examples, on the device asked for.

    What the checkpoint itself names as module:callable is imported only with ``trust``.
    """
    check_finite(checkpoint.weights)
    run = checkpoint.config
    analysis = config.id  # of what was typed
    config = replace(config, **_asked(checkpoint, config, trust))
    assert config.data is not None
    data = datasets.load(config.data, config.split)
    shape: dict[str, Any] = {}
    batches: Any = data
    if isinstance(data, Dataset):
        generator = torch.Generator().manual_seed(config.seed)
        data = choose(data, examples=config.examples, first=config.first, generator=generator)
        shape = {"input_shape": data.input_shape, "classes": data.classes}
        batches = list(fixed(data, config.batch_size))
    elif config.examples or config.first:
        raise ValueError("`examples` and `first` need a data set of tensors, not batches.")
    model = _empty_network(checkpoint, config, shape)
    notes = [*checkpoint.notes]
    if not _is_its_own(config.model, checkpoint):
        notes += load_weights(model, checkpoint.weights)
    elif any(w.is_floating_point() and w.itemsize < 4 for w in checkpoint.weights.values()):
        notes.append(f"the half-precision weights are analysed in {config.dtype}")
    if run and run.label_smoothing and config.loss == run.loss:
        notes.append(
            f"trained with label smoothing {run.label_smoothing:g}, measured without: "
            f"`--loss cross_entropy:label_smoothing={run.label_smoothing:g}` counts it in"
        )
    risk = EmpiricalRisk(
        model.to(resolve_device(config.device), _DTYPES[config.dtype]),
        config.loss,
        batches,
        params=config.params,
        micro_batch=config.micro_batch,
        mode="train" if config.batchnorm == "train" else "eval",
        tf32=config.tf32,
    )
    weight_decay = run.weight_decay if run is not None and config.with_weight_decay else 0.0
    about = {
        **_provenance(checkpoint, config, risk),
        "analysis": analysis,
        "data_name": data.name if isinstance(data, Dataset) else config.data,
        "data_hash": data.hash if isinstance(data, Dataset) else risk.data_hash,
        "pooled_over": _groupings(data) or None,
        "weight_decay_counted": weight_decay,
    }
    return Subject(risk, about, weight_decay, (*notes, *risk.notes))


def _empty_network(
    checkpoint: Checkpoint, config: AnalysisConfig, shape: dict[str, Any]
) -> nn.Module:
    """The model, to load the weights into: in float64 where both they and the analysis are."""
    assert config.model is not None
    generator = torch.Generator().manual_seed(config.seed)  # not the caller's random state
    model = models.build(config.model, **shape, generator=generator)
    double = any(weight.dtype == torch.float64 for weight in checkpoint.weights.values())
    return model.double() if double and config.dtype == "float64" else model


def _is_its_own(model: str | None, checkpoint: Checkpoint) -> bool:
    """Whether the model was read from the folder that is the checkpoint, so has its weights."""
    spec = names.parse(model or "", models.MODELS)
    if spec.name != "hf" or checkpoint.folder is None or spec.directory is None:
        return False
    return os.path.realpath(os.path.expanduser(spec.directory)) == os.path.realpath(
        checkpoint.folder
    )


def _asked(checkpoint: Checkpoint, config: AnalysisConfig, trust: bool) -> dict[str, Any]:
    """Model, data and loss: as typed, else as the checkpoint's own config says."""
    run = checkpoint.config
    found: dict[str, Any] = {}
    for name, table in (("model", models.MODELS), ("data", datasets.DATASETS), ("loss", LOSSES)):
        typed, own = getattr(config, name), getattr(run, name, None)
        if name == "model" and checkpoint.folder is not None:
            own = f"hf:{checkpoint.folder}"
        if name == "loss" and own is None:
            own = _loss_of(found["model"]) if typed is None else None
        if typed is None and own is None:
            raise ValueError(f"The checkpoint doesn't say its {name}: add `--{name} NAME`.")
        if (
            typed is None
            and own is not None
            and not trust
            and names.parse(own, table).name not in table
        ):
            raise ValueError(
                f"The checkpoint asks for code to be imported as its {name}, `{own}`. If you "
                f"trust it, add `--trust`; or name one yourself with `--{name}`."
            )
        found[name] = typed or own
    if config.with_weight_decay and run is None:
        raise ValueError("The checkpoint doesn't say its weight decay, so it can't be counted in.")
    found["model"] = models.fitting(found["model"], checkpoint.weights)
    return found


def _loss_of(model: str) -> str | None:
    """Of a folder of Hugging Face what its kind is trained with, if known; else cross-entropy."""
    if names.parse(model, models.MODELS).name == "hf":
        return models.loss_of(model)
    return "cross_entropy"


def _provenance(
    checkpoint: Checkpoint, config: AnalysisConfig, risk: EmpiricalRisk
) -> dict[str, Any]:
    run = checkpoint.config
    about: dict[str, Any] = {
        "run": run.id if run else checkpoint.hash,
        "step": checkpoint.step,
        "checkpoint_hash": checkpoint.hash,
        "model": config.model,
        "parameters": risk.size,
        "data": config.data,
        "split": config.split,
        "on": measured_on(config.data or "", config.split, run.data if run else None),
        "examples": risk.survey.examples,
        "batch_size": config.batch_size,
        "loss": config.loss,
        "reduction": risk.reduction,
        "batchnorm": config.batchnorm,
        "device": str(risk.device),
        "dtype": config.dtype,
        "tf32": config.tf32,
        "seed": config.seed,
        "curvature": __version__,
        "torch": torch.__version__,
        "params": " ".join(config.params) or None,
    }
    return about | (run.as_columns() if run else {})


def _groupings(data: Any) -> str:
    """The kinds of examples that are measured as one, as `corruption, severity`."""
    groups = data.groups if isinstance(data, Dataset) else {}
    return ", ".join(name for name, (codes, _) in groups.items() if len(torch.unique(codes)) > 1)
