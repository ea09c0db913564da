"""Checkpoints that are folders: Hugging Face's save_pretrained is read, others say what to do."""

import os
from pathlib import Path

from curvature.runs.files import read_json, require_file
from curvature.runs.folder import RunFolder

WEIGHTS = ("model.safetensors.index.json", "model.safetensors")  # of save_pretrained

_OTHERS = (  # files that tell a folder's kind, what it is, and how to get weights from it
    (
        ".metadata",
        "a torch.distributed.checkpoint folder",
        "python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} model.pt",
    ),
    (
        "zero_to_fp32.py",
        "a DeepSpeed folder of partitioned weights",
        "python {folder}/zero_to_fp32.py {folder} out",
    ),
)


def newest_in(path: Path) -> Path:
    """The newest checkpoint of a run's folder; anything else as it is."""
    inside = RunFolder(path).checkpoint
    return inside if os.path.isfile(inside) else path


def require_checkpoint(path: Path) -> None:
    """Refuse what is neither a file nor a folder of a run or of save_pretrained."""
    path = newest_in(path)
    if is_pretrained(path):
        require_file(weights_in(path), "checkpoint")
        return
    if os.path.isdir(path):
        _refuse_known(path)
    require_file(path, "checkpoint")


def is_pretrained(path: Path) -> bool:
    """Whether it is a folder that save_pretrained of a transformers model wrote."""
    config = path / "config.json"
    return os.path.isfile(config) and "model_type" in read_json(config, "config of a model")


def weights_in(folder: Path) -> Path:
    """The file of its weights, or the index of its shards."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    adapter = "adapter_config.json"
    if (folder / adapter).is_file():
        raise ValueError(
            f"{folder} holds an adapter, not a model: save `model.merge_and_unload()` instead."
        )
    raise ValueError(
        f"{folder} holds no {WEIGHTS[1]}: save the model again with `save_pretrained(folder)`, "
        "which writes safetensors."
    )


def architecture(folder: Path) -> str:
    """The class that was saved, as its config.json says."""
    found = read_json(folder / "config.json", "config of a model").get("architectures")
    return str(found[0]) if isinstance(found, list) and found else "unknown"


def _refuse_known(folder: Path) -> None:
    for name, what, convert in _OTHERS:
        if (folder / name).is_file():
            raise ValueError(
                f"{folder} is {what}. Make one file of it: `{convert.format(folder=folder)}`."
            )
    if (folder / "adapter_config.json").is_file():
        weights_in(folder)
