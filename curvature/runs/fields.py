"""Fields of a config that are options too: default, help, and what a value is checked against."""

import math
import numbers
import operator
import typing
from dataclasses import Field, field
from typing import Any


def option(
    default: Any,
    help: str,
    *,
    flag: str | None = None,
    in_id: bool = True,
    choices: tuple[str, ...] = (),
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A config field that is also a command-line option; ``in_id``: does it change the result?

    ``choices`` and the bounds are what a value is checked against.
    """
    metadata = {"help": help, "flag": flag, "in_id": in_id, "choices": choices}
    return field(default=default, metadata=metadata | dict(least=least, above=above, below=below))


def checked(value: Any, f: Field[Any]) -> Any:
    """``value`` in its field's type; refuses, in one line, another kind and nonsense."""
    value = _of_kind(value, f)
    if value is not None:
        _refuse_nonsense(value, f)
    return value


def _of_kind(value: Any, f: Field[Any]) -> Any:
    """``value`` as its field's type: equal configs have one id, so 1 becomes 1.0 for a float."""
    kinds = typing.get_args(f.type) or (f.type,)
    if value is None and type(None) in kinds:
        return None
    if isinstance(value, str) and str in kinds and typing.get_origin(f.type) is not tuple:
        return str(value)
    if isinstance(value, bool) and bool in kinds:
        return value
    if isinstance(value, numbers.Integral) and int in kinds and not isinstance(value, bool):
        return int(value)
    if isinstance(value, numbers.Real) and float in kinds and not isinstance(value, bool):
        return float(value) + 0.0  # -0.0 is 0.0
    if isinstance(value, list | tuple) and typing.get_origin(f.type) is tuple:
        return tuple(_of_text(item, f.name) for item in value)
    kind = f.type.__name__ if isinstance(f.type, type) else str(f.type)
    raise TypeError(f"`{f.name}` is of type {kind}, not {type(value).__name__}: {value!r}.")


def _refuse_nonsense(value: Any, f: Field[Any]) -> None:
    limits = f.metadata
    if limits["choices"] and value not in limits["choices"]:
        raise ValueError(f"`{f.name}` is one of {', '.join(limits['choices'])}, not `{value}`.")
    if isinstance(value, str) and not value.strip():
        raise ValueError(f"`{f.name}` is empty.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"`{f.name}` must be finite, got {value}.")
    bounds = (
        ("at least", limits["least"], operator.ge),
        ("above", limits["above"], operator.gt),
        ("below", limits["below"], operator.lt),
    )
    for words, bound, holds in bounds:
        if bound is not None and not holds(value, bound):
            raise ValueError(f"`{f.name}` must be {words} {bound}, got {value}.")


def _of_text(item: Any, name: str) -> str:
    if not isinstance(item, str):
        raise TypeError(f"`{name}` is a list of texts, not of {type(item).__name__}: {item!r}.")
    if not item.strip():
        raise ValueError(f"`{name}` has an empty entry.")
    return str(item)
