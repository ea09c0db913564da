"""Text that was typed in → the type that a signature asks for."""

import types
import typing
from typing import Any


def convert(value: Any, hint: Any, what: str) -> Any:
    """Turn the typed-in string into the annotated type; anything else passes through."""
    if not isinstance(value, str):
        return value
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return _to_one(value, typing.get_args(hint), what)
    if typing.get_origin(hint) is typing.Literal:
        choices = [str(choice) for choice in typing.get_args(hint)]
        if value not in choices:
            raise ValueError(f"The {what} is one of {', '.join(choices)}, not `{value}`.")
        return typing.get_args(hint)[choices.index(value)]
    if hint is bool:
        if value.lower() not in ("true", "false", "1", "0", "yes", "no"):
            raise ValueError(f"The {what} is true or false, not `{value}`.")
        return value.lower() in ("true", "1", "yes")
    if hint in (int, float):
        try:
            return hint(value)
        except ValueError:
            number = "whole number" if hint is int else "number"
            raise ValueError(f"The {what} is a {number}, not `{value}`.") from None
    return value if hint is str else _literal(value)


def _to_one(value: str, members: tuple[Any, ...], what: str) -> Any:
    """The first member of a union that ``value`` reads as; text comes last, it reads as any."""
    if type(None) in members and value.lower() == "none":
        return None
    order = (int, float, bool)
    rest = [member for member in members if member not in (*order, str, type(None))]
    failure = None
    for member in [m for m in order if m in members] + rest + [m for m in members if m is str]:
        try:
            return convert(value, member, what)
        except ValueError as error:
            failure = error
    raise failure or ValueError(f"The {what} is none, not `{value}`.")


def _literal(value: str) -> Any:
    """A string without a type to go by: a number where it reads as one."""
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return {"true": True, "false": False, "none": None}.get(value.lower(), value)
