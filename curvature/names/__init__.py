"""From a name to the thing: `NAME[:DIR][,key=value…]` or `module:callable[,key=value…]`."""

import difflib
import importlib
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from curvature.names.typed import convert

TAKE_A_DIRECTORY = ("cifar10", "cifar10c", "hf", "images", "npz")  # `npz:data` names no module
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


def with_options(text: str, items: Iterable[str], table: Iterable[str] = ()) -> str:
    """The spec ``text`` with more ``key=value`` options, as if they had been typed in it.

    >>> with_options("vgg19:width=0.25", ["batchnorm=false"], ["vgg19"])
    'vgg19:width=0.25,batchnorm=false'
    """
    spec = parse(text, table)
    for key, value in pairs(items).items():
        if key in spec.options:
            raise ValueError(f"Option `{key}` is given twice: in `{text}` and as `{key}={value}`.")
        if "," in value:
            raise ValueError(f"The option `{key}={value}` holds a comma, which ends an option.")
        spec = replace(spec, options={**spec.options, key: value})
    return str(spec)


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
        keywords[name] = convert(value, hints.get(name, Any), f"option `{name}` of the {kind}")
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
    except Exception as error:  # whatever the module does when it is imported
        usual = (ImportError, AttributeError, ValueError, SyntaxError)
        what = error if isinstance(error, usual) else f"{type(error).__name__}: {error}"
        raise ValueError(f"The {kind} `{name}` can't be imported: {what}.") from error
    for part in attribute.split("."):
        if not hasattr(thing, part):
            raise ValueError(
                f"The {kind} `{name}` can't be imported: `{module_name}` has no `{attribute}`; "
                f"it has {_callables(thing)}."
            )
        thing = getattr(thing, part)
    if not callable(thing):
        raise ValueError(f"The {kind} `{name}` is a {type(thing).__name__}, not a callable.")
    return typing.cast(Callable[..., Any], thing)


def _callables(module: Any) -> str:
    """What a module defines itself and could have been meant, the first of it."""
    own = [
        key
        for key, value in vars(module).items()
        if callable(value)
        and not key.startswith("_")
        and getattr(value, "__module__", None) == getattr(module, "__name__", None)
    ]
    return ", ".join(own[:8]) + ", …" * (len(own) > 8) or "no function of its own"


def _type_hints(function: Callable[..., Any]) -> dict[str, Any]:
    target = function.__init__ if inspect.isclass(function) else function
    try:
        return typing.get_type_hints(target)
    except (NameError, TypeError, AttributeError):
        return {}
