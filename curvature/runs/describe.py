"""What is in a checkpoint, as plain values: ours or a stranger's."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from curvature.runs.checkpoint import Checkpoint
from curvature.runs.weights import check_finite


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Plain values, fit for JSON; of a stranger's file only tensors, hash and notes are known."""
    weights = checkpoint.weights
    about: dict[str, Any] = {
        "hash": checkpoint.hash,
        "entries": sum(tensor.numel() for tensor in weights.values()),
        "notes": [*checkpoint.notes, *_not_finite(checkpoint)],
        "tensors": [
            {"name": name, "shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")}
            for name, t in weights.items()
        ],
    }
    config = checkpoint.config
    if config is None and checkpoint.status == "unknown":
        return {"kind": "weights", **about}
    return {
        "kind": "curvature",
        "format": checkpoint.format,
        "run": config.id if config else None,
        "status": checkpoint.status,
        "epoch": checkpoint.epoch,
        "step": checkpoint.step,
        "config": config.to_dict() if config else None,
        "metrics": _plain(checkpoint.metrics),
        "optimizer": _optimizer(checkpoint.optimizer),
        "random_states": sorted(checkpoint.random_states),
        "versions": checkpoint.versions,
        **about,
    }


def _not_finite(checkpoint: Checkpoint) -> list[str]:
    try:
        check_finite(checkpoint.weights)
    except FloatingPointError as error:
        return [str(error)]
    return []


def _optimizer(state: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Its parameter groups without the parameters, and how much state it keeps."""
    if state is None:
        return None
    groups = [
        {key: _plain(value) for key, value in group.items() if key != "params"}
        for group in state.get("param_groups", [])
    ]
    kept: dict[str, int] = {}
    for entry in state.get("state", {}).values():
        for name, value in entry.items():
            kept[name] = kept.get(name, 0) + (value.numel() if isinstance(value, Tensor) else 1)
    return {"groups": groups, "state": kept}


def _plain(value: Any) -> Any:
    """A value in JSON's types; numbers that JSON hasn't, as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Tensor):
        return _plain(value.tolist()) if value.numel() == 1 else f"tensor {tuple(value.shape)}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
