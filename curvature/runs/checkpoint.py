"""Checkpoints: our own, whole in one file, and anyone's weights read into the same record."""

import json
import numbers
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curvature.runs.config import RunConfig
from curvature.runs.files import write_whole
from curvature.runs.loading import load_weights
from curvature.runs.messages import printable
from curvature.runs.reading import Contents, read
from curvature.runs.safetensors_format import write_safetensors
from curvature.runs.saved_folders import newest_in
from curvature.runs.weights import check_finite, find_weights, weights_hash

__all__ = [
    "FORMAT",
    "Checkpoint",
    "check_finite",
    "export_safetensors",
    "load_checkpoint",
    "load_weights",
    "save_checkpoint",
]

FORMAT = 1  # of the file: raise it when a field changes its meaning

_MARK = "curvature_format"  # the key that tells our files from others
_KINDS: dict[str, tuple[type, ...]] = {
    "config": (dict, type(None)),
    "weights": (dict,),
    "optimizer": (dict, type(None)),
    "epoch": (int,),
    "step": (int,),
    "metrics": (dict,),
    "random_states": (dict,),
    "versions": (dict,),
    "status": (str,),
}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights and where they come from; of a stranger's file, the weights and ``notes`` alone.

    ``notes`` says in a line each what was found, removed or dropped on loading; it isn't saved.
    """

    weights: dict[str, Tensor]
    config: RunConfig | None = None
    optimizer: dict[str, Any] | None = None
    epoch: int = 0
    step: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    random_states: dict[str, Tensor] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    status: str = "done"
    format: int = FORMAT
    notes: tuple[str, ...] = ()
    folder: str | None = None  # of save_pretrained, which says the model too

    @cached_property
    def hash(self) -> str:
        """Twelve hexadecimal digits of the weights, whatever the file's format and prefixes."""
        return weights_hash(self.weights)


def save_checkpoint(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Write one file of tensors and plain values, which ``torch.load`` reads with weights_only."""
    config = checkpoint.config
    values = {name: getattr(checkpoint, name) for name in _KINDS}
    values["config"] = config.to_dict() if config else None
    content = {_MARK: FORMAT, **{name: _plain(value, name) for name, value in values.items()}}
    write_whole(path, lambda file: torch.save(content, file))


def load_checkpoint(path: str | os.PathLike[str], *, weights: str = "auto") -> Checkpoint:
    """Read a checkpoint of ours, or anyone's state dict: torch's formats, gzip, safetensors.

    A folder is one of a run of ours, or of ``save_pretrained``.
    Everything lands on the CPU and nothing in the file is executed. ``weights`` chooses among
    several sets: auto, ema, the key one lies under, or a prefix such as ``encoder.``.

    Raises:
        ValueError: if it is no checkpoint, damaged, or would have to run code; FileNotFoundError …
    """
    path = newest_in(Path(path))
    contents = read(path)
    found = contents.found
    try:
        if isinstance(found, Mapping) and _MARK in found:
            return _ours(dict(found), weights, contents)
        if _MARK in contents.metadata:
            about = json.loads(contents.metadata[_MARK])
            if not isinstance(about, dict):
                raise ValueError(f"its metadata `{_MARK}` is not a table")
            return _ours({**about, "weights": found}, weights, contents)
        state, notes = find_weights(found, weights)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {str(error).rstrip('.')}.") from None
    folder = str(path) if path.is_dir() else None
    return Checkpoint(state, status="unknown", notes=(*contents.notes, *notes), folder=folder)


def export_safetensors(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Write the weights as safetensors; the config and the metrics travel as its metadata."""
    config = checkpoint.config
    about: dict[str, Any] = {_MARK: FORMAT, "config": config.to_dict() if config else None}
    for name in ("epoch", "step", "metrics", "versions", "status"):
        about[name] = _plain(getattr(checkpoint, name), name)
    metadata = {"format": "pt", _MARK: json.dumps(about)}
    write_safetensors(Path(path), checkpoint.weights, metadata)


def _ours(found: dict[str, Any], wanted: str, contents: Contents) -> Checkpoint:
    number = found.pop(_MARK, None)
    if not isinstance(number, int) or number < 1:
        raise ValueError(f"`{_MARK}` is {printable(repr(number))}, not a format's number")
    if number > FORMAT:
        raise ValueError(
            f"written in format {number} by a newer version, this one reads up to {FORMAT}: update"
        )
    for name, kinds in _KINDS.items():
        if name in found and not isinstance(found[name], kinds):
            raise ValueError(f"its `{name}` is a {type(found[name]).__name__}: damaged or edited")
    values = {name: found[name] for name in _KINDS if name in found}
    if not _is_optimizer_state(values.get("optimizer")):
        raise ValueError("its `optimizer` is no optimizer's state dict: damaged or edited")
    if not all(isinstance(state, Tensor) for state in values.get("random_states", {}).values()):
        raise ValueError("its `random_states` are not all tensors: damaged or edited")
    if values.get("config") is not None:
        values["config"] = RunConfig.from_dict(values["config"])
    if wanted not in ("auto", "weights"):
        raise ValueError(f"it holds one set of weights, none under `{printable(wanted)}`")
    state = values.get("weights", {})
    named = (isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    if not state or not all(named):
        raise ValueError("its `weights` are not all named tensors, or there are none")
    values |= {"format": number, "notes": tuple(contents.notes)}
    return Checkpoint(**values)


def _is_optimizer_state(found: Any) -> bool:
    """{"state": {…: {…}}, "param_groups": [{…}, …]}, or None."""
    if found is None:
        return True
    state, groups = found.get("state"), found.get("param_groups")
    return (
        isinstance(state, Mapping)
        and all(isinstance(entry, Mapping) for entry in state.values())
        and isinstance(groups, list)
        and all(isinstance(group, Mapping) for group in groups)
    )


def _plain(value: Any, where: str) -> Any:
    """``value`` in types that weights_only admits; NumPy's numbers become Python's."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        whole = value.untyped_storage().nbytes() == value.numel() * value.element_size()
        return value if whole else value.clone()  # a view would drag its whole storage along
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, Mapping):
        return {
            _plain(key, where): _plain(item, f"{where}[{key!r}]") for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        items = [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    raise TypeError(
        f"A checkpoint holds tensors and plain values; `{where}` is a {type(value).__name__}."
    )
