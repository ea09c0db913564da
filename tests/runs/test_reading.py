"""Files that are no checkpoint, or no longer one: refused in one line, never misread."""

import gzip
import io
import json
import os
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from curvature.runs.checkpoint import load_checkpoint
from curvature.runs.weights import weights_hash

W = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2), "b": torch.tensor(3)}


def saved(**options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(W, buffer, **options)
    return buffer.getvalue()


def zipped(*names: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        for name in names:
            archive.writestr(name, b"content")
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, images=np.zeros(3))
    return buffer.getvalue()


def torchscript() -> bytes:
    return zipped("net/data.pkl", "net/constants.pkl", "net/version")


def tensors(header: Any, data: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def info(start: int = 0, end: int = 8, shape: int = 2) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [shape], "data_offsets": [start, end]}


CONTENTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty, so it is no checkpoint"),
    "one byte": (b"\x80", "a pickle of protocol|damaged, cut short"),
    "text": (b"hello world, this is a text", "is not a checkpoint: it is neither"),
    "text like a pickle": (b"cat\nsat\non the mat", "is not a checkpoint: it is neither"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(99), "is not a checkpoint but a PNG picture"),
    "web page": (b"<!DOCTYPE html><html>", "but a web page: the download went wrong"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid", "run `git lfs pull`"),
    "npy": (b"\x93NUMPY\x01\x00", "but a NumPy array"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "but an HDF5 file"),
    "zeros": (bytes(100), "is not a checkpoint: it is neither"),
    "npz": (npz(), r"a zip file, but not a checkpoint: it holds images\.npy"),
    "zip of something else": (zipped("a.txt", "b\n.txt"), r"it holds a\.txt, b\?\.txt"),
    "zip of nothing": (zipped(), "it holds nothing"),
    "zip with an empty pickle": (zipped("a/data.pkl"), "is not a checkpoint: it is neither"),
    "TorchScript": (torchscript(), r"a TorchScript archive; load it with torch\.jit\.load"),
    "truncated zip": (saved()[:-40], "a truncated or damaged zip file"),
    "half a zip": (saved()[: len(saved()) // 2], "a truncated or damaged zip file"),
    "truncated legacy": (saved(_use_new_zipfile_serialization=False)[:-9], "damaged, cut short"),
    "truncated gzip": (gzip.compress(saved())[:-9], "a damaged or truncated gzip file"),
    "gzip of text": (gzip.compress(b"hello world, a text"), "is not a checkpoint: it is neither"),
    "gzip of nothing": (gzip.compress(b""), "is not a checkpoint: it is neither"),
}
SAFETENSORS: dict[str, tuple[bytes, str]] = {
    "text": (b"hello world, this is a text", "a header of [0-9]+ bytes in a file of 27"),
    "short": (b"\x01\x00", "a header of 1 bytes in a file of 2"),
    "long header": (struct.pack("<Q", 99) + b"{}", "a header of 99 bytes in a file of 10"),
    "huge header": (b"\xff" * 8 + b"{}", "a header of 18446744073709551615 bytes"),
    "no JSON": (tensors(b"{nothing}"), "damaged safetensors file .Expecting"),
    "no UTF-8": (tensors(b"\xff\xfe{}"), "damaged safetensors file"),
    "deep JSON": (tensors(b"[" * 100_000), "damaged safetensors file"),
    "list": (tensors([1]), "its header is not a table"),
    "entry is no table": (tensors({"a": 3}), "damaged safetensors file"),
    "duplicate": (
        tensors(json.dumps({"a": info(), "b": info()}).replace("b", "a").encode()),
        "`a` stands twice in its header",
    ),
    "overlap": (tensors({"a": info(), "b": info()}), "damaged safetensors file"),
    "beyond the end": (tensors({"a": info(0, 16, 4)}), "damaged safetensors file"),
    "negative": (tensors({"a": info(-8, 0)}), "damaged safetensors file"),
    "backwards": (tensors({"a": info(8, 0)}), "damaged safetensors file"),
    "shape": (tensors({"a": info(0, 8, 3)}), "damaged safetensors file"),
    "hole": (tensors({"a": info(8, 16)}, bytes(16)), "damaged safetensors file"),
    "rest": (tensors({"a": info()}, bytes(16)), "damaged safetensors file"),
    "unknown dtype": (tensors({"a": info() | {"dtype": "F31"}}), "damaged safetensors file"),
    "metadata is text": (tensors({"a": info(), "__metadata__": "x"}), "damaged safetensors file"),
    "ours, edited": (
        tensors({"a": info(), "__metadata__": {"curvature_format": "{"}}),
        "Expecting property name",
    ),
    "ours, no table": (
        tensors({"a": info(), "__metadata__": {"curvature_format": "[]"}}),
        "its metadata `curvature_format` is not a table",
    ),
    "no tensors": (tensors({}, b""), "no tensors under a name"),
}


def refusal(path: Path, message: str, kind: type[Exception] = ValueError) -> None:
    with pytest.raises(kind, match=message) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".pkl", ""])
@pytest.mark.parametrize("case", CONTENTS)
def test_a_file_that_is_no_checkpoint_is_told(case: str, suffix: str, tmp_path: Path) -> None:
    content, message = CONTENTS[case]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    refusal(path, message)


@pytest.mark.parametrize("case", SAFETENSORS)
def test_a_broken_safetensors_file_is_told(case: str, tmp_path: Path) -> None:
    content, message = SAFETENSORS[case]
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    refusal(path, message)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    refusal(tmp_path / "missing.pt", "There is no checkpoint at", FileNotFoundError)
    refusal(tmp_path, "is a directory, not a checkpoint", IsADirectoryError)
    (tmp_path / "run" / "checkpoint.pt").mkdir(parents=True)
    refusal(tmp_path / "run", "run is a directory, not a checkpoint", IsADirectoryError)
    (tmp_path / "file").write_bytes(b"x")
    refusal(tmp_path / "file" / "a.pt", "file is a file", NotADirectoryError)
    (tmp_path / "loop.pt").symlink_to(tmp_path / "loop.pt")
    refusal(tmp_path / "loop.pt", "can't be read: Too many levels of symbolic links", OSError)
    (tmp_path / "dangling.pt").symlink_to("nowhere.pt")
    refusal(tmp_path / "dangling.pt", r"\(a link to nowhere\.pt\)", FileNotFoundError)
    refusal(tmp_path / ("a" * 300), "File name too long", OSError)
    os.mkfifo(tmp_path / "fifo.pt")
    refusal(tmp_path / "fifo.pt", "is neither a file nor a link to one")


def test_a_link_to_a_checkpoint_is_followed(tmp_path: Path) -> None:
    torch.save(W, tmp_path / "a.pt")
    (tmp_path / "b.pt").symlink_to("a.pt")
    assert load_checkpoint(tmp_path / "b.pt").hash == weights_hash(W)


def write_shards(
    folder: Path, suffix: str, save: Callable[[dict[str, Tensor], Path], None]
) -> Path:
    parts = ({"a.weight": W["a.weight"]}, {"a.bias": W["a.bias"], "b": W["b"]})
    for number, part in enumerate(parts):
        save(part, folder / f"model-{number}{suffix}")
    where = {name: f"model-{number}{suffix}" for number, part in enumerate(parts) for name in part}
    index = folder / f"model{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return index


@pytest.mark.parametrize(
    ("suffix", "save"), [(".safetensors", safetensors.torch.save_file), (".bin", torch.save)]
)
def test_shards_are_put_together(suffix: str, save: Any, tmp_path: Path) -> None:
    loaded = load_checkpoint(write_shards(tmp_path, suffix, save))
    assert loaded.hash == weights_hash(W)
    assert loaded.notes == ("put together from 2 shards",)


def test_shards_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    index = write_shards(tmp_path, ".bin", torch.save)
    torch.save(W, tmp_path / "model-1.bin")
    refusal(index, "`a.weight` stands in two of its shards")
    torch.save({"b": W["b"]}, tmp_path / "model-1.bin")
    refusal(index, "`a.bias` is in the index but in none of its shards")
    torch.save([1], tmp_path / "model-1.bin")
    refusal(index, "`model-1.bin` holds a list, not named tensors")
    (tmp_path / "model-1.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*model-1\.bin"):
        load_checkpoint(index)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not an object"),
        ("{}", "is not an index of shards"),
        ('{"weight_map": 3}', "is not an index of shards"),
        ('{"weight_map": {}}', "is not an index of shards"),
        ('{"weight_map": {"a": 3}}', "There is no checkpoint at .*3"),
        ('{"weight_map": {"a": [1]}}', r"There is no checkpoint at .*\[1\]"),
    ],
)
def test_json_that_is_no_index_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_damage_escapes_as_another_error(zipped: bool, tmp_path: Path) -> None:
    """Bytes changed at random: a ValueError of one line, or a state dict."""
    data = saved(_use_new_zipfile_serialization=zipped)
    path, draw = tmp_path / "a.pt", random.Random(0)
    refused = []
    for _ in range(400):
        damaged = bytearray(data)
        for _ in range(draw.randrange(1, 6)):
            damaged[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            load_checkpoint(path)
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert not [message for message in refused if "\n" in message or "a.pt" not in message]


def test_random_bytes_are_refused(tmp_path: Path) -> None:
    draw = random.Random(0)
    for start in (b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x05", b"\x1f\x8b\x08\x00", b"{", b"c"):
        for _ in range(20):
            (tmp_path / "a.pt").write_bytes(start + draw.randbytes(draw.randrange(1, 200)))
            refusal(tmp_path / "a.pt", "a.pt")
