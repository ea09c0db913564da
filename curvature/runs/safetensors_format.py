"""The safetensors format: a JSON header, then the bytes of the tensors; no code in it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from curvature.runs.files import write_whole
from curvature.runs.messages import one_line, printable


def read_safetensors(data: bytes, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata."""
    import safetensors
    import safetensors.torch

    metadata = _header(data, path).get("__metadata__", {})
    try:
        return safetensors.torch.load(data), metadata
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path}: a damaged safetensors file ({one_line(error)}).") from None


def write_safetensors(path: Path, weights: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write whole; tensors that share memory are written once each, as the format asks."""
    import safetensors.torch

    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    data = safetensors.torch.save(tensors, metadata)
    write_whole(path, lambda file: file.write(data))


def _header(data: bytes, path: Path) -> dict[str, Any]:
    """The JSON at the start; of a name that stands twice the library keeps one, so refuse it."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for name, value in pairs:
            if name in seen:
                raise ValueError(f"`{printable(name)}` stands twice in its header")
            seen[name] = value
        return seen

    size = int.from_bytes(data[:8], "little")
    try:
        if len(data) < 8 or size > len(data) - 8:
            raise ValueError(f"a header of {size} bytes in a file of {len(data)}")
        header = json.loads(data[8 : 8 + size], object_pairs_hook=unique)
        if not isinstance(header, dict):
            raise ValueError("its header is not a table")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: a damaged safetensors file ({one_line(error)}).") from None
    return header
