"""From a name to the thing: `NAME[:DIR][,key=value…]` or `module:callable[,key=value…]`."""

import difflib
import importlib
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

TAKE_A_DIRECTORY = ("cifar10", "cifar10c", "images", "npz")  # `npz:data` names no module
SAME_EVERYWHERE = ("cifar10", "cifar10c")  # wherever the directory lies, its contents are known

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
        """What belongs in an id: sorted options and, of where data of one's own lies, the name."""
        own = self.directory is not None and self.name not in SAME_EVERYWHERE
        last = PurePath(self.directory or "").name if own else None
        return _join(self.name, last, dict(sorted(self.options.items())))


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
    directory: list[str] = []
    if _IMPORT.fullmatch(head) and name not in table:
        name = head
    elif colon:
        rest = [tail, *rest]
    if not name.strip():
        raise ValueError(f"`{text}` names nothing; write NAME[:DIR][,key=value…].")
    for item in rest:
        if _OPTION.match(item):
            key, _, value = item.partition("=")
            if key in options:
                raise ValueError(f"Option `{key}` stands twice in `{text}`.")
            options[key] = value
        elif options or not colon or name == head:
            raise ValueError(f"`{item}` in `{text}` is not an option; write key=value.")
        else:
            directory.append(item)
    return Spec(name, ",".join(directory) or None, options)


def pairs(items: Iterable[str]) -> dict[str, str]:
    """Read ``key=value`` items; a key may stand once.

    >>> pairs(["growth=0.02", "damping=1"])
    {'growth': '0.02', 'damping': '1'}
    """
    options: dict[str, str] = {}
    for item in items:
        key, _, value = item.partition("=")
        if not _OPTION.match(item):
            raise ValueError(f"`{item}` is not an option; write key=value.")
        if key in options:
            raise ValueError(f"Option `{key}` is given twice: `{options[key]}` and `{value}`.")
        options[key] = value
    return options


def resolve(name: str, table: Mapping[str, Callable[..., Any]], kind: str) -> Callable[..., Any]:
    """Return ``table[name]``, or import ``package.module:callable``.

    Raises:
        ValueError: if there is no such thing; the message lists what there is.
    """
    if name in table:
        return table[name]
    if ":" in name:
        return _imported(name, kind)
    close = difflib.get_close_matches(name, table)
    close.sort(key=lambda other: not other.startswith(name[:-1]))  # resnet21: 20 before 32
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
    keywords = _arguments(function, options, kind, given, len(args))
    for name, parameter in list(_parameters(function).items())[len(args) :]:
        if parameter.default is parameter.empty and name not in keywords:
            raise ValueError(f"The {kind} needs the option `{name}`; write {name}=….")
    with named(function, kind):
        return function(*args, **keywords)


@contextmanager
def named(function: Callable[..., Any], kind: str) -> Iterator[None]:
    """Say which of someone's own functions it was that failed, and how; ours say so themselves."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # a stranger's code may raise anything
        if str(getattr(function, "__module__", "")).startswith("curvature."):
            raise
        what = " ".join(f"{type(error).__name__}: {error}".split())
        again = RuntimeError if isinstance(error, RuntimeError) else ValueError
        raise again(f"The {kind} failed with {what}. CURV_TRACEBACK=1 shows where.") from error


def arguments(
    function: Callable[..., Any], options: Mapping[str, Any], kind: str, **given: Any
) -> dict[str, Any]:
    """Return the keyword arguments that ``call`` would pass."""
    return _arguments(function, options, kind, given, 0)


def _arguments(
    function: Callable[..., Any],
    options: Mapping[str, Any],
    kind: str,
    given: Mapping[str, Any],
    taken: int,
) -> dict[str, Any]:
    """``taken``: how many of the parameters are given by position, so are no options."""
    parameters = dict(list(_parameters(function).items())[taken:])
    signature = inspect.signature(function)
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


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Those that can be given by name."""
    return {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    }


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
    except Exception as error:  # whatever the module does when it is imported
        usual = (ImportError, AttributeError, ValueError, SyntaxError)
        what = error if isinstance(error, usual) else f"{type(error).__name__}: {error}"
        raise ValueError(f"The {kind} `{name}` can't be imported: {what}.") from error
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
        return _convert_to_one(value, typing.get_args(hint), what)
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


def _convert_to_one(value: str, members: tuple[Any, ...], what: str) -> Any:
    """The first member of a union that ``value`` reads as; text comes last, it reads as any."""
    if type(None) in members and value.lower() == "none":
        return None
    order = (int, float, bool)
    rest = [member for member in members if member not in (*order, str, type(None))]
    failure = None
    for member in [m for m in order if m in members] + rest + [m for m in members if m is str]:
        try:
            return _convert(value, member, what)
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
