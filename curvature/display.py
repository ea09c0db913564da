"""How results show themselves: in a line, as a table in a notebook, as a row of a data frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

if TYPE_CHECKING:
    import pandas as pd

_LONG = 70  # characters of a text in a line
Row = dict[str, Any]


class Shown:
    """For frozen dataclasses, declared with ``repr=False``: what a result says of itself.

    ``_error`` names the field that stands behind ±, ``_brief`` what else the line has. Fields
    declared with ``repr=False`` (vectors, samples) are in none of it.
    """

    _error: ClassVar[str] = ""
    _brief: ClassVar[tuple[str, ...]] = ()

    def to_dict(self) -> Row:
        """Numbers and texts by name, in order."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {field.name: getattr(self, field.name) for field in fields if field.repr}

    def to_series(self) -> pd.Series[Any]:
        """The same as a row for a data frame; needs pandas."""
        return _pandas().Series(self.to_dict(), name=type(self).__name__)

    def __repr__(self) -> str:
        row = self.to_dict()
        parts = [_named(name, row[name]) for name in self._brief if row[name] is not None]
        if "value" in row:
            parts = [_with_error(row["value"], row.get(self._error)), *_converged(row), *parts]
        return f"{type(self).__name__}({', '.join(parts)})"

    def _repr_html_(self) -> str:
        row = {name: text(value) for name, value in self.to_dict().items() if value is not None}
        return html_table(type(self).__name__, row)


T = TypeVar("T", bound=Shown)


class Several(tuple[T, ...]):
    """Results of the same kind, in order."""

    __slots__ = ()

    def to_frame(self) -> pd.DataFrame:
        """A data frame with a row for each; needs pandas."""
        return _pandas().DataFrame([each.to_dict() for each in self])

    def __repr__(self) -> str:
        return "(" + ",\n ".join(map(repr, self)) + ("," if len(self) == 1 else "") + ")"

    def _repr_html_(self) -> str:
        rows = [each.to_dict() for each in self]
        heads = "".join(f"<th>{escape(name)}</th>" for name in (rows[0] if rows else ()))
        lines = "".join(
            "<tr>" + "".join(f"<td>{escape(text(v))}</td>" for v in row.values()) + "</tr>"
            for row in rows
        )
        return f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"


def html_table(title: str, rows: Mapping[str, str]) -> str:
    """A table of names and texts under a title; everything is escaped."""
    lines = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(value)}</td></tr>'
        for name, value in rows.items()
    )
    return f"<table><caption>{escape(title)}</caption><tbody>{lines}</tbody></table>"


def text(value: Any, digits: int = 6) -> str:
    """A value for people: floats to a few digits, everything else as it is."""
    if isinstance(value, bool) or not isinstance(value, float):
        return f"{value:,}" if type(value) is int else str(value)
    return f"{value:.{digits}g}"


def _with_error(value: float, error: float | None) -> str:
    return text(value) if error is None else f"{text(value)} ± {text(float(error), 2)}"


def _converged(row: Row) -> Sequence[str]:
    if "converged" not in row:
        return ()
    return ("converged",) if row["converged"] else ("NOT CONVERGED",)


def _named(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value if len(value) <= _LONG else f"{value[:_LONG]}…"
    words = name.replace("_", " ")
    return f"{text(value)} {words}" if isinstance(value, int) else f"{words} {text(value, 3)}"


def _pandas() -> Any:
    try:
        import pandas as pd
    except ImportError:
        raise ImportError(
            "A series or data frame needs pandas: pip install 'curvature-toolkit[parquet]'. "
            "`to_dict()` needs nothing."
        ) from None
    return pd
