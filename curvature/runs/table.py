"""Files of rows, one per (run, analysis), and the one tidy table of all of them.

What a row is, `curvature.runs.rows` says; here it is read and written as JSON Lines and Parquet,
and as CSV in `curvature.runs.csv_table`.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from curvature.runs.csv_table import read_csv, write_csv
from curvature.runs.files import require_file, write_text, write_whole
from curvature.runs.messages import one_line, printable
from curvature.runs.rows import KEY, Row, columns, plain_row, refuse_text_for_numbers

__all__ = [
    "HISTORY",
    "KEY",
    "Row",
    "Table",
    "columns",
    "read_csv",
    "read_rows",
    "read_table",
    "write_csv",
    "write_parquet",
    "write_rows",
]

HISTORY = "history.jsonl"  # of training: rows too, but not results

_NEEDED = "{} pandas and pyarrow: pip install 'curvature-toolkit[parquet]'."


def write_rows(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON Lines, whole; a NaN or infinite value becomes null with the status diverged."""
    plain = [plain_row(row) for row in rows]
    _refuse_duplicates([(row, path) for row in plain])
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in plain]
    write_text(path, "".join(lines))


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of one file; a line that is not a flat JSON object is refused by its number."""
    path = Path(path)
    require_file(path, "file of rows", empty=True)
    rows = []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no file of rows: it is not text in UTF-8.") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            rows.append(_parsed(line, f"{path}, line {number}"))
    return rows


class Table(list[Row]):
    """Rows as a list of dicts, which pandas can take over."""

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame`: columns as in the files, whole numbers kept where some lack."""
        return _frame([plain_row(row) for row in self])


def read_table(folder: str | os.PathLike[str]) -> Table:
    """All rows in all files of rows below ``folder``, in the order of the files' names.

    Raises:
        ValueError: if two rows have one key; the message names both files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder of runs at {folder}.")
    found = [
        (row, path)
        for path in sorted(folder.rglob("*.jsonl"))
        if path.name != HISTORY and path.is_file()
        for row in read_rows(path)
    ]
    _refuse_duplicates(found)
    return Table(row for row, _ in found)


def write_parquet(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one Parquet file, for which pandas and pyarrow are needed."""
    frame = _frame([plain_row(row) for row in rows])
    try:
        data = frame.to_parquet(index=False)
    except ImportError:
        raise ModuleNotFoundError(_NEEDED.format("Parquet needs")) from None
    write_whole(path, lambda file: file.write(data))


def _frame(rows: list[Row]) -> Any:
    try:
        import pandas
    except ImportError:
        raise ModuleNotFoundError(_NEEDED.format("A data frame and Parquet need")) from None
    data = {}
    for name in columns(rows):
        cells = [row.get(name) for row in rows]
        kinds = {type(cell) for cell in cells if cell is not None}
        if len(kinds) > 1 and not kinds <= {
            int,
            float,
        }:  # an option that is 1 here and "1e-3" there
            cells = [None if cell is None else str(cell) for cell in cells]
            kinds = {str}
        kind = _dtype(kinds, None in cells)
        data[name] = pandas.Series(cells, dtype=kind)
    return pandas.DataFrame(data)


def _dtype(kinds: set[type], some_lack: bool) -> str | None:
    """A missing step makes no other step a float: nullable types of pandas, where one lacks."""
    if kinds and kinds <= {int, float}:
        return "float64" if float in kinds else "Int64" if some_lack else "int64"
    if kinds == {bool}:
        return "boolean" if some_lack else "bool"
    return None  # text, as pandas keeps it


def _parsed(line: str, where: str) -> Row:
    def refuse(token: str) -> None:
        raise ValueError(f"{token} is not JSON; write null")

    try:
        row = json.loads(line, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not a row ({one_line(error)}).") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: not a row, which is an object {{…}}.")
    for name, value in row.items():
        if isinstance(value, dict | list):
            raise ValueError(f"{where}: a row is flat, but `{printable(name)}` holds more values.")
    refuse_text_for_numbers(row, where)
    return row


def _refuse_duplicates(found: Iterable[tuple[Mapping[str, Any], Any]]) -> None:
    seen: dict[tuple[Any, ...], Any] = {}
    for row, source in found:
        key = tuple(row.get(name) for name in KEY)
        if key in seen:
            named = ", ".join(
                f"{name} {printable(value)}"
                for name, value in zip(KEY, key, strict=True)
                if value is not None
            )
            where = source if seen[key] == source else f"{seen[key]} and in {source}"
            raise ValueError(f"Two rows have one key, in {where} ({named}): keep one of them.")
        seen[key] = source
