"""A pickle of torch.save → plain objects; nothing that the pickle says is ever executed.

`torch.load(weights_only=True)` does the reading. It checks no checksum and explains itself at
length, so the checksums and the reason for a refusal, in one line, are here.
"""

import io
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
import zlib
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from pathlib import Path
from typing import IO, Any

import torch

from curvature.runs.messages import GATHER, one_line, printable

REMEDY = "save its `model.state_dict()` with torch.save instead"
LEGACY_PICKLES = 5  # magic number, protocol, system, the object, the keys of its storages

# What torch.load raises on bytes that are no checkpoint: its unpickler interprets them unchecked.
_UNREADABLE = (
    pickle.UnpicklingError,
    EOFError,
    LookupError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
    struct.error,
    OSError,
)
_ALLOWED = re.compile(
    r"collections\.(OrderedDict|Counter)|_codecs\.encode|argparse\.Namespace|pathlib\.[\w.]+Path"
    r"|numpy\.(dtype|ndarray|_?core\.(multiarray\.(scalar|_reconstruct)|numeric\._frombuffer))|builtins\.(set|bytearray|complex)"
    r"|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2"
    r"|torch\.nn\.parameter\.Parameter|torch\.serialization\._get_layout"
    r"|torch\.(\w+Storage|storage\.\w+Storage|Size|Tensor|\w+Tensor|device|(b?float|q?u?int|complex)\d\w*|bool)"
)


def load_pickle(file: IO[bytes], path: Path) -> Any:
    """What torch.load reads of ``file`` with weights_only=True, on the CPU."""
    if file.read(2) == b"PK":
        _check_zip(file, path)
    file.seek(0)
    with warnings.catch_warnings(), torch.serialization.safe_globals(_stand_ins()):
        warnings.simplefilter("ignore")  # of protocols and of escapes: the error says it all
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except _UNREADABLE as error:
            file.seek(0)
            raise ValueError(_why_refused(_pickled(file), path, error)) from None


def _check_zip(file: IO[bytes], path: Path) -> None:
    """Refuse a zip that is damaged (torch checks no checksum) or was not made by torch.save."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.namelist()
            checked = any(member.CRC for member in archive.infolist())  # torch can write none
            damaged = archive.testzip() if checked else None
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        RuntimeError,  # encrypted, or a compression that Python lacks
        ValueError,
        OverflowError,
        struct.error,
    ) as error:
        raise ValueError(
            f"{path}: a truncated or damaged zip file ({one_line(error)}). Copy it again."
        ) from None
    if damaged is not None:
        raise ValueError(
            f"{path}: damaged, the checksum of `{printable(damaged)}` is wrong. Copy it again."
        )
    names = [member.rpartition("/")[2] for member in members]
    if "data.pkl" not in names:
        listed = ", ".join(printable(member) for member in members[:3]) or "nothing"
        raise ValueError(f"{path}: a zip file, but not a checkpoint: it holds {listed}.")
    if "constants.pkl" in names:
        raise ValueError(
            f"{path}: a TorchScript archive; load it with torch.jit.load and {REMEDY}."
        )


def _stand_ins() -> list[Any]:
    """Inert classes for what often lies beside the weights: arguments, paths, NumPy's objects."""
    found = ["argparse.Namespace", "pathlib.PosixPath", "pathlib.WindowsPath", "numpy.dtype"]
    found += ["numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"]
    found += ["numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"]
    found += ["numpy.ndarray", "numpy._core.numeric._frombuffer", "numpy.core.numeric._frombuffer"]
    found += ["pathlib._local.PosixPath", "pathlib._local.WindowsPath"]  # Python 3.13
    stand_ins: list[Any] = []
    for name in found:
        module, _, qualname = name.rpartition(".")
        body = {"__module__": module, "__qualname__": qualname}
        stand_ins.append(type(qualname, (_Inert,), body))
    return stand_ins


class _Inert:
    """Takes the place of an object that is not weights, and forgets what it is given."""

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _pickled(file: IO[bytes]) -> bytes:
    """The bytes of the pickle that a checkpoint starts with."""
    if file.read(2) != b"PK":
        file.seek(0)
        return file.read()
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        member = next(m for m in archive.infolist() if m.filename.endswith("data.pkl"))
        if member.compress_type != zipfile.ZIP_STORED:
            return archive.read(member)
        file.seek(member.header_offset + 26)  # `read` would ask for the checksum, torch may lack it
        name, extra = struct.unpack("<HH", file.read(4))
        file.seek(name + extra, io.SEEK_CUR)
        return file.read(member.file_size)


def _why_refused(data: bytes, path: Path, error: BaseException) -> str:
    imports, protocol, complete = _scan(data)
    refused = [name for name in imports if not _ALLOWED.fullmatch(name)]
    is_pickle = data[:1] == b"\x80" or complete
    if refused and is_pickle:
        named = ", ".join(f"`{printable(name)}`" for name in dict.fromkeys(refused[:3]))
        if any(name.startswith("torch.distributed.tensor.") for name in refused):
            return f"{path}: refused, it holds sharded tensors ({named}). {GATHER}."
        if any(name.startswith("torch.nn.modules.") for name in refused):
            return (
                f"{path}: refused, it holds a whole pickled module ({named}), which only running "
                f"its code could read. Load it where it was made and {REMEDY}."
            )
        return (
            f"{path}: refused, it refers to {named}: reading that would run code, and only tensors "
            f"and plain values are read. If this is a model of yours, {REMEDY}."
        )
    if not is_pickle:
        return f"{path} is not a checkpoint: it is neither torch's format nor safetensors."
    if protocol > 2:
        return (
            f"{path}: a pickle of protocol {protocol}, which torch.load doesn't read safely "
            f"(its own is 2). If this is a model of yours, {REMEDY}."
        )
    cause = error.__context__ or error  # torch wraps the reason in its advice
    return f"{path}: damaged, cut short or not a checkpoint ({one_line(cause)})."


def _scan(data: bytes) -> tuple[list[str], int, bool]:
    """The names a stream of pickles would import, its protocol, is it whole; without running it."""
    imports: list[str] = []
    strings: list[str] = []
    memo: dict[int, str] = {}
    protocol = complete = 0
    stream = io.BytesIO(data)
    try:
        for _ in range(LEGACY_PICKLES):
            top = ""
            argument: Any
            for opcode, argument, _ in pickletools.genops(stream):
                name = opcode.name
                if name in ("GLOBAL", "INST"):
                    imports.append(_modern(*argument.split(" ", 1)))
                elif name == "STACK_GLOBAL":
                    imports.append(_modern(*([""] * 2 + strings)[-2:]))
                elif name == "PROTO":
                    protocol = max(protocol, argument)
                elif name == "MEMOIZE":
                    memo[len(memo)] = top
                elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
                    memo[argument] = top
                if name in ("GET", "BINGET", "LONG_BINGET"):
                    argument = memo.get(argument, "")
                top = argument if isinstance(argument, str) else ""
                if top and name not in ("GLOBAL", "INST"):
                    strings.append(top)
            complete += 1
    except (ValueError, struct.error, OverflowError):
        pass
    return imports, protocol, complete > 0


def _modern(module: str, name: str) -> str:
    """The name in Python 3; protocol 2 writes that of Python 2."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"
