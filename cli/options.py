"""Command-line options made from the fields of a config: name, type, default and help once."""

from __future__ import annotations

import functools
import importlib
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

import click
from click.shell_completion import CompletionItem

from curvature import names

TABLES = {  # where the names of a field are, imported when they are completed
    "model": ("curvature.models", "MODELS"),
    "data": ("curvature.datasets", "DATASETS"),
    "loss": ("curvature.losses", "LOSSES"),
    "optimizer": ("curvature.optimizers", "OPTIMIZERS"),
}


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


def more_options(*of: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that adds `--model-option key=value` and the like, and puts them into the name.

    So `--model mine:net --model-option width=8` is `--model mine:net,width=8`, with the same id.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def wrapped(*args: Any, **given: Any) -> Any:
            for name in of:
                items = given.pop(f"{name}_option")
                given[name] = _with_options(name, given[name], items)
            return command(*args, **given)

        for name in reversed(of):
            option = click.option(
                f"--{name}-option",
                multiple=True,
                metavar="KEY=VALUE",
                help=f"An option of the {name}, as if typed in its name; may be repeated.",
            )
            wrapped = option(wrapped)
        return wrapped

    return decorate


def completing(name: str) -> Callable[..., list[CompletionItem]]:
    """What completes the names of a field: a model, a data set, a loss or an optimizer."""

    def complete(context: Any, parameter: Any, incomplete: str) -> list[CompletionItem]:
        module, table = TABLES[name]
        known: Mapping[str, Callable[..., Any]] = getattr(importlib.import_module(module), table)
        before, comma, last = incomplete.rpartition(",")
        return [
            CompletionItem(
                before + comma + each, help=(known[each].__doc__ or each).splitlines()[0]
            )
            for each in known
            if each.startswith(last)
        ]

    return complete


def _with_options(name: str, given: Any, items: tuple[str, ...]) -> Any:
    if not items:
        return given
    if not given:
        raise ValueError(f"`--{name}-option` belongs to a `--{name}`: give that too.")
    if isinstance(given, tuple) and len(given) > 1:
        raise ValueError(
            f"`--{name}-option` doesn't say which `--{name}` it is of: write NAME,{items[0]}."
        )
    if isinstance(given, tuple):
        return (names.with_options(given[0], items, names.TAKE_A_DIRECTORY),)
    return names.with_options(given, items, names.TAKE_A_DIRECTORY)


def _option(f: Field[Any], hint: Any) -> Any:
    flag = f.metadata.get("flag") or "--" + f.name.replace("_", "-")
    default = f.default
    assert default is not MISSING
    settings: dict[str, Any] = {
        "default": default,
        "help": f.metadata["help"],
        "show_default": not (default is None or default is False or default == ()),
    }
    if f.name in TABLES:
        settings["shell_complete"] = completing(f.name)
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
