"""The table as CSV, for spreadsheets and for hands that edit it there."""

import csv
import io
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from curvature.runs.files import require_file, write_text
from curvature.runs.messages import printable
from curvature.runs.rows import Row, columns, plain_row, refuse_text_for_numbers

TEXT = frozenset(  # an id of digits only is no number
    (
        *("run", "analysis", "metric", "block", "method", "products", "status", "message"),
        *("checkpoint", "checkpoint_hash", "model", "data", "data_name", "data_hash", "split"),
        *("loss", "reduction", "batchnorm", "device", "dtype", "curvature", "torch"),
        *("run.model", "run.data", "run.loss", "run.optimizer"),
    )
)

_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_BOOLEANS = {"true": True, "false": False}


def write_csv(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the rows under a header; None is an empty cell, numbers keep all their digits."""
    plain = [plain_row(row) for row in rows]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns(plain), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in plain)
    write_text(path, buffer.getvalue())


def read_csv(path: str | os.PathLike[str]) -> list[Row]:
    """The rows, their cells as numbers, true and false, or text; commas, semicolons or tabs.

    Raises:
        ValueError: naming the line, if a line does not fit the header or a number is none.
    """
    path = Path(path)
    require_file(path, "table")
    try:
        text = path.read_bytes().decode("utf-8-sig")  # spreadsheets write a byte-order mark
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8: save it as CSV UTF-8.") from None
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows: list[Row] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(header, path)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append(_row(header, cells, f"{path}, line {reader.line_num}"))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not CSV ({error}).") from None
    return rows


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else value


def _check_header(header: list[str], path: Path) -> None:
    if not all(header) or not header:
        number = header.index("") + 1 if header else 1
        raise ValueError(f"{path}: the first line names the columns, but column {number} has none.")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ValueError(f"{path}: the column `{printable(twice[0])}` stands twice in the header.")


def _row(header: list[str], cells: list[str], where: str) -> Row:
    if len(cells) != len(header):
        raise ValueError(f"{where}: {len(cells)} cells, where the header has {len(header)}.")
    row = {name: _value(name, cell) for name, cell in zip(header, cells, strict=True)}
    refuse_text_for_numbers(row, where)
    return row


def _value(name: str, cell: str) -> Any:
    text = cell.strip()
    if not text:
        return None
    if name in TEXT:
        return cell
    if text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    if _WHOLE.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return cell
