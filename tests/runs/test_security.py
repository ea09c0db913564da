"""A checkpoint may say what it likes: nothing of it is executed, and the refusal names it."""

import builtins
import copyreg
import functools
import gzip
import importlib
import io
import operator
import os
import pickle
import runpy
import subprocess
import webbrowser
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from curvature.runs.checkpoint import load_checkpoint


class Calls:
    """Pickles into a call of ``function``, its state set by whatever else is given."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def touch(canary: Path) -> str:
    return f"touch {canary}"


def write(canary: Path) -> str:
    return f"open({str(canary)!r}, 'w').close()"


def raw(*operations: bytes) -> Callable[[Path], bytes]:
    def build(canary: Path) -> bytes:
        return b"".join(operations).replace(b"CANARY", touch(canary).encode())

    return build


def short(text: bytes) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text


def nested(canary: Path) -> Any:
    inner = pickle.dumps(Calls(os.system, touch(canary)))
    return Calls(pickle.loads, inner)


class Evil(torch.nn.Linear):
    """A module with a class of its own, as people pickle them whole."""


# What is pickled, given the canary, and the name that the refusal must show.
CALLS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "os.system": (lambda c: Calls(os.system, touch(c)), "posix.system"),
    "os.popen": (lambda c: Calls(os.popen, touch(c)), "os.popen"),
    "os.execvp": (lambda c: Calls(os.execvp, "touch", ["touch", str(c)]), "os.execvp"),
    "os.mkdir": (lambda c: Calls(os.mkdir, str(c)), "posix.mkdir"),
    "eval": (lambda c: Calls(eval, write(c)), "eval"),
    "exec": (lambda c: Calls(exec, write(c)), "exec"),
    "compile": (lambda c: Calls(exec, Calls(compile, write(c), "f", "exec")), "exec"),
    "open": (lambda c: Calls(open, str(c), "w"), "open"),
    "__import__": (lambda c: Calls(builtins.__import__, "os"), "__import__"),
    "getattr": (lambda c: Calls(getattr, Calls(__import__, "os"), "system"), "getattr"),
    "subprocess.Popen": (lambda c: Calls(subprocess.Popen, ["touch", str(c)]), "subprocess.Popen"),
    "subprocess.run": (lambda c: Calls(subprocess.run, ["touch", str(c)]), "subprocess.run"),
    "partial": (lambda c: functools.partial(os.system, touch(c)), "functools.partial"),
    "importlib": (lambda c: Calls(importlib.import_module, "antigravity"), "importlib"),
    "runpy": (lambda c: Calls(runpy.run_path, str(c)), "runpy"),
    "webbrowser": (lambda c: Calls(webbrowser.open, "http://127.0.0.1:9"), "webbrowser.open"),
    "torch.hub.load": (lambda c: Calls(torch.hub.load, "a/b", "c"), "torch.hub.load"),
    "torch.load": (lambda c: Calls(torch.load, str(c)), "torch.serialization.load"),
    "load_from_bytes": (lambda c: Calls(torch.storage._load_from_bytes, b""), "_load_from_bytes"),
    "pickle in pickle": (nested, "pickle.loads"),
    "numpy objects": (lambda c: np.array([Calls(os.system, touch(c))]), "posix.system"),
    "numpy.load": (lambda c: Calls(np.load, str(c), None, True), "numpy"),
    "copyreg": (lambda c: Calls(copyreg._reconstructor, Evil, object, None), "copyreg"),
    "setstate": (lambda c: Calls(functools.partial, os.system, state={"a": 1}), "partial"),
    "methodcaller": (lambda c: operator.methodcaller("system", touch(c)), "operator.methodcaller"),
    "map": (lambda c: Calls(list, Calls(map, os.system, [touch(c)])), "list"),
    "whole module": (lambda c: Evil(2, 2), "Evil"),
    "type": (lambda c: Calls(type, "A", (), {}), "type"),
}  # fmt: skip
RAW: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "protocol 0": (raw(b"cos\nsystem\n(S'CANARY'\ntR."), "os.system"),
    "protocol 0, INST": (raw(b"(S'CANARY'\nios\nsystem\n."), "os.system"),
    "OBJ": (raw(b"\x80\x02(cposix\nsystem\nX\x06\x00\x00\x00CANARYo."), "posix.system"),
    "STACK_GLOBAL": (
        raw(b"\x80\x04", short(b"posix"), b"\x94", short(b"system"), b"\x94\x93)R."),
        "posix.system",
    ),
    "STACK_GLOBAL from the memo": (
        raw(b"\x80\x04", short(b"posix"), b"\x94", short(b"system"), b"\x9400h\x00h\x01\x93)R."),
        "posix.system",
    ),
    "BUILD": (raw(b"\x80\x02cfunctools\npartial\n)\x81}b."), "functools.partial"),
    "allowed first": (
        raw(b"\x80\x02ccollections\nOrderedDict\n)R0cposix\nsystem\n(S'CANARY'\ntR."),
        "posix.system",
    ),
    "Python 2's name": (raw(b"\x80\x02c__builtin__\neval\nU\x011\x85R."), "builtins.eval"),
    "dotted": (raw(b"\x80\x04", short(b"os"), short(b"path.os.system"), b"\x93)R."), "os.path.os"),
    "a name of many lines": (
        raw(b"\x80\x04", short(b"x\n\x1b[31m"), short(b"y"), b"\x93)R."),
        "x??",
    ),
    "never ends": (raw(b"\x80\x02cposix\nsystem\n(S'CANARY'\ntR"), "posix.system"),
}
FORMATS = ("zip", "legacy", "gzip", "pickle 2", "pickle 5")


def in_format(thing: Any, kind: str) -> bytes:
    content = {"state_dict": {"w": torch.ones(2)}, "extra": thing}
    buffer = io.BytesIO()
    if kind.startswith("pickle"):
        return pickle.dumps({"extra": thing}, protocol=int(kind[-1]))
    torch.save(content, buffer, _use_new_zipfile_serialization=kind != "legacy")
    return gzip.compress(buffer.getvalue()) if kind == "gzip" else buffer.getvalue()


def refusal(path: Path, canary: Path) -> str:
    with pytest.raises(ValueError, match="refused") as caught:
        load_checkpoint(path)
    assert not canary.exists()
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("case", CALLS)
def test_a_call_is_refused_by_name(case: str, kind: str, tmp_path: Path) -> None:
    build, name = CALLS[case]
    canary = tmp_path / "canary"
    (tmp_path / "evil.pt").write_bytes(in_format(build(canary), kind))
    assert name in refusal(tmp_path / "evil.pt", canary)


@pytest.mark.parametrize("suffix", [".pt", ".pkl", ".bin"])
@pytest.mark.parametrize("case", RAW)
def test_a_pickle_by_hand_is_refused_by_name(case: str, suffix: str, tmp_path: Path) -> None:
    build, name = RAW[case]
    canary = tmp_path / "canary"
    path = (tmp_path / "evil").with_suffix(suffix)
    path.write_bytes(build(canary))
    assert name in refusal(path, canary)


@pytest.mark.parametrize("case", RAW)
def test_a_pickle_by_hand_inside_a_zip_is_refused_by_name(case: str, tmp_path: Path) -> None:
    build, name = RAW[case]
    canary = tmp_path / "canary"
    path = tmp_path / "evil.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", build(canary))
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/byteorder", b"little")
    assert name in refusal(path, canary)


def test_without_checksums_the_name_is_found_too(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.serialization.set_crc32_options(False)
    try:
        (tmp_path / "a.pt").write_bytes(in_format(Calls(os.system, touch(canary)), "zip"))
    finally:
        torch.serialization.set_crc32_options(True)
    assert "posix.system" in refusal(tmp_path / "a.pt", canary)


def test_a_shard_is_refused_like_a_file(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "a.bin").write_bytes(in_format(Calls(os.system, touch(canary)), "zip"))
    (tmp_path / "model.index.json").write_text('{"weight_map": {"w": "a.bin"}}')
    assert "posix.system" in refusal(tmp_path / "model.index.json", canary)


@pytest.mark.parametrize("shard", ["../a.bin", "/etc/passwd", "", "..", "a/b.bin"])
def test_an_index_reaches_no_other_folder(shard: str, tmp_path: Path) -> None:
    index = tmp_path / "in" / "model.index.json"
    index.parent.mkdir()
    index.write_text(f'{{"weight_map": {{"w": "{shard}"}}}}')
    with pytest.raises(ValueError, match="is not a file beside the index"):
        load_checkpoint(index)


def test_the_calls_would_do_harm_if_they_were_executed(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(CALLS["os.system"][0](canary)))
    assert canary.exists()


def test_what_lies_harmlessly_beside_the_weights_is_not_refused(tmp_path: Path) -> None:
    import argparse

    arguments = argparse.Namespace(lr=0.1, out=Path("runs"), best=np.float64(93.0))
    content = {"model": {"w": torch.ones(2)}, "args": arguments, "acc": np.float32(1.0)}
    content |= {"numpy": np.random.RandomState(0).get_state(), "lr": np.ones(3)}  # as scripts do
    for zipped in (True, False):
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        loaded = load_checkpoint(tmp_path / "a.pt")
        assert list(loaded.weights) == ["w"]
        assert "left aside `args`, `acc`, `numpy`, `lr`" in loaded.notes
