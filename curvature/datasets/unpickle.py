"""Arrays out of a pickle that can run nothing: CIFAR-10's python layout, whoever wrote it.

Every name that a pickle may import is answered by an inert stand-in of this file, NumPy's own
constructors included; any other name is refused before it is looked up.
"""

import io
import math
import pickle
from typing import Any

import numpy as np

_DTYPES = ("u1", "i1", "i2", "i4", "i8", "u2", "u4", "u8", "f4", "f8")
_BROKEN = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)


def read_pickle(content: bytes, where: str) -> dict[str, Any]:
    """The dict in ``content``, its keys as text, its arrays as NumPy arrays.

    Raises:
        ValueError: if the pickle wants anything but arrays, numbers, text and containers, or is
            damaged; the message begins with ``where``.
    """
    try:
        value = _Restricted(io.BytesIO(content), encoding="bytes").load()
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}, not a dict")
        return {_text(key): _plain(item) for key, item in value.items()}
    except _BROKEN as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(f"{where} can't be read as a CIFAR-10 pickle: {reason}.") from error


class _Dtype:
    """Stands for ``numpy.dtype``."""

    def __init__(self, code: str | bytes, *_: Any) -> None:
        self.code = _text(code)
        self.order = "|"
        if self.code not in _DTYPES:
            raise pickle.UnpicklingError(f"an array of type {self.code!r} is not expected there")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = {"<": "<", ">": ">"}.get(_text(state[1]), "|")

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


class _Array:
    """Stands for ``numpy.ndarray``: keeps shape, type and bytes, and builds the array itself."""

    def __init__(self, *_: Any) -> None:
        self.parts: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        self.parts = (content, dtype, shape, "F" if fortran else "C")

    def numpy(self) -> np.ndarray[Any, Any]:
        content, dtype, shape, order = self.parts
        array = np.frombuffer(content, dtype.numpy())
        if len(array) != math.prod(shape):
            raise ValueError(f"an array of shape {shape} has {len(array)} numbers")
        return array.reshape(shape, order=order)


def _array_from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.parts = (content, dtype, shape, _text(order))
    return array


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Stands for ``_codecs.encode``, by which Python 3 pickles bytes in Python 2's protocols."""
    if _text(encoding) not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"the encoding {encoding!r} is not expected there")
    return str(text).encode("latin1")


_STAND_INS: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _array_from_buffer for core in ("core", "_core")},
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(
                f"it asks for `{module}.{name}`, which no CIFAR-10 file needs (nothing was run)"
            )
        return _STAND_INS[module, name]


def _plain(item: Any) -> Any:
    return item.numpy() if isinstance(item, _Array) else item


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
