"""Command-line options made from the fields of a config: name, type, default and help once."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any

import click


def options_from(
    config: type, *, leave_out: tuple[str, ...] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that adds an option for each field of the dataclass ``config``."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        hints = typing.get_type_hints(config)
        for f in reversed(fields(config)):
            if f.name not in leave_out:
                command = _option(f, hints[f.name])(command)
        return command

    return decorate


def _option(f: Field[Any], hint: Any) -> Any:
    flag = f.metadata.get("flag") or "--" + f.name.replace("_", "-")
    default = f.default
    assert default is not MISSING
    settings: dict[str, Any] = {
        "default": default,
        "help": f.metadata["help"],
        "show_default": not (default is None or default is False or default == ()),
    }
    kind = _plain_type(hint)
    if kind is bool:
        return click.option(flag, f.name, is_flag=True, **settings)
    if typing.get_origin(hint) is tuple:
        return click.option(flag, f.name, type=str, multiple=True, **settings)
    if f.metadata.get("choices"):
        kind = click.Choice([str(choice) for choice in f.metadata["choices"]])
    return click.option(flag, f.name, type=kind, **settings)


def _plain_type(hint: Any) -> Any:
    """The type in ``X | None``."""
    if isinstance(hint, types.UnionType):
        return next(member for member in typing.get_args(hint) if member is not type(None))
    return hint
