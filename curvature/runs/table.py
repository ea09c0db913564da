"""Rows of results: flat dicts, one file per (run, analysis), and one tidy table of all of them.

A row is one number with all that is needed to read it. Columns, absent ones being None:

    run, analysis, metric, step, block, probe, index   the key, unique in a table (`KEY`)
    value, standard_error, sampling_error, residual    the number; errors of probes and of images
    low, high, n                                       of a statistic over n rows
    passes, seconds, method, converged                 what it cost, how it was got
    status, message                                    ok, diverged (value is None) or failed; why
    checkpoint, model, data, data_hash, split, examples, loss, reduction, batchnorm,
    weight_decay_counted, device, dtype, seed, versions    provenance; checkpoint is a hash
    run.optimizer, run.lr, run.weight_decay, …         the fields of the RunConfig, prefixed
"""

import json
import math
import numbers
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from curvature.runs.files import require_file, write_text, write_whole
from curvature.runs.messages import one_line, printable

Row = dict[str, Any]

KEY = ("run", "analysis", "metric", "step", "block", "probe", "index")
NUMBERS = ("value", "standard_error", "sampling_error", "residual", "low", "high", "n")
TEXTS = ("method", "converged", "status", "message", "checkpoint", "model", "data", "data_hash")
COLUMNS = (
    *KEY,
    *NUMBERS,
    "passes",
    "seconds",
    *TEXTS,
    "split",
    "examples",
    "loss",
    "reduction",
    "batchnorm",
    "weight_decay_counted",
    "device",
    "dtype",
    "seed",
    "versions",
)
HISTORY = "history.jsonl"  # of training: rows too, but not results


def write_rows(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON Lines, whole; a NaN or infinite value becomes null with the status diverged."""
    plain = [_plain(row) for row in rows]
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


def read_table(folder: str | os.PathLike[str]) -> list[Row]:
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
    return [row for row, _ in found]


def columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The columns that the rows have: `COLUMNS` in their order, then the others by name."""
    there = {name for row in rows for name in row}
    return [name for name in COLUMNS if name in there] + sorted(there - set(COLUMNS))


def write_parquet(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one Parquet file, for which pandas and pyarrow are needed."""
    plain = [_plain(row) for row in rows]
    try:
        import pandas

        data = pandas.DataFrame(plain, columns=columns(plain)).to_parquet(index=False)
    except ImportError:
        raise ModuleNotFoundError(
            "Parquet needs pandas and pyarrow: pip install 'curvature-toolkit[parquet]'."
        ) from None
    write_whole(path, lambda file: file.write(data))


def _plain(row: Mapping[str, Any]) -> Row:
    """A row in JSON's types; only finite numbers, since JSON has no others."""
    plain: Row = {}
    for name, value in row.items():
        if value is None or isinstance(value, bool | str):
            plain[name] = value
        elif isinstance(value, numbers.Integral):
            plain[name] = int(value)
        elif isinstance(value, numbers.Real):
            plain[name] = float(value) if math.isfinite(value) else None
        else:
            raise TypeError(f"A row holds numbers and text; `{name}` is a {type(value).__name__}.")
    value = row.get("value")
    if value is not None and plain["value"] is None:
        plain["message"] = plain.get("message") or f"the value is {float(value)}"
        if plain.get("status") in (None, "ok"):
            plain["status"] = "diverged"
    return plain


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
