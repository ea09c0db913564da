"""From a name to the thing: `NAME[:DIR][,key=value…]` or `module:callable[,key=value…]`."""

import difflib
import importlib
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

TAKE_A_DIRECTORY = ("cifar10", "cifar10c", "images", "npz")  # `npz:data` names no module

_OPTION = re.compile(r"[A-Za-z_]\w*=")
_IMPORT = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True)
class Spec:
    """A name, the directory given with it, and its options as they were typed."""

    name: str
    directory: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return _join(self.name, self.directory, self.options)

    @property
    def portable(self) -> str:
        """The spec without its directory and with sorted options: what belongs in an id."""
        return _join(self.name, None, dict(sorted(self.options.items())))


def parse(text: str, table: Iterable[str] = ()) -> Spec:
    """Read ``NAME[:DIR][,key=value…]`` where NAME is in ``table``, else ``module:callable[,…]``.

    A directory may hold commas and colons; an option starts with ``key=``.

    >>> parse("vgg19:width=0.25", ["vgg19"])
    Spec(name='vgg19', directory=None, options={'width': '0.25'})
    >>> parse("cifar10:/data,augment=crop", ["cifar10"]).directory
    '/data'
    """
    head, *rest = text.split(",")
    options: dict[str, str] = {}
    name, colon, tail = head.partition(":")
    directory = ""
    if _IMPORT.fullmatch(head) and name not in table:
        name = head
    elif colon:
        rest = [tail, *rest]
    for item in rest:
        if _OPTION.match(item):
            key, _, value = item.partition("=")
            options[key] = value
        elif options or not colon or name == head:
            raise ValueError(f"`{item}` in `{text}` is not an option; write key=value.")
        else:
            directory += ("," if directory else "") + item
    return Spec(name, directory or None, options)


def resolve(name: str, table: Mapping[str, Callable[..., Any]], kind: str) -> Callable[..., Any]:
    """Return ``table[name]``, or import ``package.module:callable``.

    Raises:
        ValueError: if there is no such thing; the message lists what there is.
    """
    if name in table:
        return table[name]
    if ":" in name:
        return _imported(name, kind)
    close = difflib.get_close_matches(name, table, n=1)
    hint = f" Did you mean `{close[0]}`?" if close else ""
    raise ValueError(
        f"There is no {kind} `{name}`.{hint} There are {', '.join(sorted(table))}; "
        f"or name your own as package.module:callable."
    )


def call(
    function: Callable[..., Any], options: Mapping[str, Any], kind: str, *args: Any, **given: Any
) -> Any:
    """Call ``function`` with typed-in ``options`` checked against, and converted by, its signature.

    Of ``given``, which the program knows (the number of classes, say), only what the function
    has a parameter for is passed; an option that was typed in goes before it.
    """
    return function(*args, **arguments(function, options, kind, **given))


def arguments(
    function: Callable[..., Any], options: Mapping[str, Any], kind: str, **given: Any
) -> dict[str, Any]:
    """Return the keyword arguments that ``call`` would pass."""
    signature = inspect.signature(function)
    parameters = {
        name: parameter
        for name, parameter in signature.parameters.items()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    }
    anything = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    hints = _type_hints(function)
    keywords = {name: value for name, value in given.items() if name in parameters}
    for name, value in options.items():
        if name not in parameters and not anything:
            raise ValueError(
                f"The {kind} has no option `{name}`. It has {', '.join(parameters) or 'none'}."
            )
        keywords[name] = _convert(value, hints.get(name, Any), f"option `{name}` of the {kind}")
    return keywords


def _join(name: str, directory: str | None, options: Mapping[str, str]) -> str:
    pairs = ",".join(f"{key}={value}" for key, value in options.items())
    if ":" in name:
        return f"{name},{pairs}" if pairs else name
    tail = ",".join(part for part in (directory, pairs) if part)
    return f"{name}:{tail}" if tail else name


def _imported(name: str, kind: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # the current directory is importable, as with `python -m`
    try:
        thing: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            thing = getattr(thing, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"The {kind} `{name}` can't be imported: {error}.") from error
    if not callable(thing):
        raise ValueError(f"The {kind} `{name}` is a {type(thing).__name__}, not a callable.")
    return typing.cast(Callable[..., Any], thing)


def _type_hints(function: Callable[..., Any]) -> dict[str, Any]:
    target = function.__init__ if inspect.isclass(function) else function
    try:
        return typing.get_type_hints(target)
    except (NameError, TypeError, AttributeError):
        return {}


def _convert(value: Any, hint: Any, what: str) -> Any:
    """Turn the typed-in string into the annotated type; anything else passes through."""
    if not isinstance(value, str):
        return value
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        members = typing.get_args(hint)
        if type(None) in members and value.lower() == "none":
            return None
        hint = next((m for m in (int, float, bool, str) if m in members), Any)
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
            raise ValueError(f"The {what} is a {hint.__name__}, not `{value}`.") from None
    return value if hint is str else _literal(value)


def _literal(value: str) -> Any:
    """A string without a type to go by: a number where it reads as one."""
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return {"true": True, "false": False, "none": None}.get(value.lower(), value)
