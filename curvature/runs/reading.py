"""Anyone's file of weights → plain objects: which format it is, and what else it may be."""

import gzip
import io
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple

from curvature.runs.files import read_json
from curvature.runs.messages import printable
from curvature.runs.pickles import load_pickle
from curvature.runs.safetensors_format import read_safetensors
from curvature.runs.saved_folders import architecture, require_checkpoint, weights_in

_SIGNATURES = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"%PDF": "a PDF",
    b"\x89HDF": "an HDF5 file (Keras, say)",
    b"\x93NUMPY": "a NumPy array",
    b"version https://git-lfs": "a Git LFS pointer: run `git lfs pull`",
    b"<!DOCTYPE": "a web page: the download went wrong",
    b"<!doctype": "a web page: the download went wrong",
    b"<html": "a web page: the download went wrong",
}


class Contents(NamedTuple):
    """The objects in a file, the metadata of safetensors, and notes on how they were read."""

    found: Any
    metadata: dict[str, str]
    notes: list[str]


def read(path: Path) -> Contents:
    """What the file holds; refuses, in one line, what is no checkpoint or is damaged."""
    require_checkpoint(path)
    if path.is_dir():
        contents = read(weights_in(path))
        kind = f"a save_pretrained folder of {printable(architecture(path))}"
        return contents._replace(notes=[kind, *contents.notes])
    if path.suffix == ".json":
        return _read_shards(path)
    with path.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not gzipped:
            return _read_stream(file, path)
        try:
            data = gzip.GzipFile(fileobj=file).read()
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: a damaged or truncated gzip file ({error}).") from error
    found, metadata, notes = _read_stream(io.BytesIO(data), path)
    return Contents(found, metadata, ["decompressed the gzip file", *notes])


def _read_stream(file: IO[bytes], path: Path) -> Contents:
    start = file.read(64)
    file.seek(0)
    named_so = path.suffix == ".safetensors" and not start.startswith((b"PK", b"\x80"))
    if named_so or start[5:9] == b"\0\0\0{":  # a header's length below 2⁴⁰, then its JSON
        return Contents(*read_safetensors(file.read(), path), [])
    for signature, what in _SIGNATURES.items():
        if start.startswith(signature):
            raise ValueError(f"{path} is not a checkpoint but {what}.")
    return Contents(load_pickle(file, path), {}, [])


def _read_shards(path: Path) -> Contents:
    """`model.safetensors.index.json`: {"weight_map": {name: file in the same folder}}."""
    where = read_json(path, "checkpoint").get("weight_map")
    if not isinstance(where, dict) or not where:
        raise ValueError(f"{path} is not an index of shards: it has no `weight_map`.")
    shards = sorted({str(shard) for shard in where.values()})
    weights: dict[str, Any] = {}
    for shard in shards:
        if shard in ("", "..") or Path(shard).name != shard:
            raise ValueError(
                f"{path}: the shard `{printable(shard)}` is not a file beside the index."
            )
        found, _, _ = read(path.with_name(shard))
        if not isinstance(found, dict):
            kind = type(found).__name__
            raise ValueError(f"{path}: its shard `{shard}` holds a {kind}, not named tensors.")
        twice = sorted(set(weights) & set(found))
        if twice:
            raise ValueError(f"{path}: `{printable(twice[0])}` stands in two of its shards.")
        weights |= found
    missing = sorted(set(where) - set(weights))
    if missing:
        raise ValueError(
            f"{path}: `{printable(missing[0])}` is in the index but in none of its shards."
        )
    return Contents(weights, {}, [f"put together from {len(shards)} shards"])
