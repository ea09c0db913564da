"""What figures and reports are made from: folders of runs, or tables in files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from curvature.runs.csv_table import read_csv
from curvature.runs.files import read_json, write_whole
from curvature.runs.folder import RunFolder
from curvature.runs.rows import Row
from curvature.runs.table import HISTORY, read_rows, read_table
from curvature.statistics import where

from .output import Output

_METRIC = re.compile(rb'(^|[,"])metric(["\r\n,]|$)')

SOURCES = click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))


def selection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--on`, `--where`, `--block` and `--analysis`, which choose rows."""
    options = (
        ("--on", "test", "What it was measured on: test, val, train, or a data set's name."),
        ("--block", None, "Part of the data: corruption=fog, say."),
        ("--analysis", None, "The id of an analysis, where runs have several."),
    )
    for name, default, text in options:
        command = click.option(name, default=default, help=text, show_default=True)(command)
    return where_option(command)


def where_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--where`."""
    text = "Only rows with this value; may be repeated."
    option = click.option("--where", "conditions", multiple=True, metavar="COLUMN=VALUE", help=text)
    return option(command)


def read_sources(sources: Sequence[Path], conditions: Sequence[str] = ()) -> list[Row]:
    """The rows of folders of runs, .jsonl and .csv files, in their order."""
    rows: list[Row] = []
    for source in sources:
        if source.is_dir():
            found = read_table(source)
        else:
            found = (read_csv if source.suffix.lower() == ".csv" else read_rows)(source)
        if not found:
            raise ValueError(f"{source} holds no rows: nothing was measured there yet.")
        rows += found
    return where(rows, conditions)


def refuse_to_replace(path: Path, option: str = "--out") -> None:
    """Refuse to write a table over a file that is none: a name mistyped, perhaps.

    A table's first bytes tell: Parquet's mark, or the column `metric` in its first line.
    """
    if not path.is_file() or not path.stat().st_size:
        return
    with path.open("rb") as file:
        first = file.readline(1 << 20)
    if not first.startswith(b"PAR1") and not _METRIC.search(first):
        raise ValueError(
            f"{path} is there and holds no rows of ours, so it is not replaced: name another file "
            f"with {option}, or remove it first."
        )


def require_columns(rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Refuse a table in which no row has one of the columns."""
    missing = [name for name in columns if not any(name in row for row in rows)]
    if missing and rows:
        raise ValueError(f"The table has no column {' and no '.join(missing)}, which is needed.")


def read_histories(sources: Sequence[Path]) -> list[Row]:
    """The rows of training in folders of runs, each with the fields of its run."""
    rows: list[Row] = []
    for source in sources:
        for path in sorted(source.rglob(HISTORY)) if source.is_dir() else ():
            folder = RunFolder(path.parent)
            config: dict[str, Any] = {}
            if folder.config_file.exists():
                config = read_json(folder.config_file, "config of a run").get("config") or {}
            if not isinstance(config, dict):
                raise ValueError(f"{folder.config_file}: its `config` is not a table.")
            about = {
                f"run.{name}": " ".join(map(str, value)) if isinstance(value, list) else value
                for name, value in config.items()
            }
            rows += [{**row, **about} for row in read_rows(path)]
    return rows


def require_place(path: Path | None) -> None:
    """Refuse, before the work, a place that can't be written to."""
    if path is None:
        return
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory; name a file to write.")
    folder = next(each for each in path.absolute().parents if each.exists())
    if not folder.is_dir():
        raise NotADirectoryError(f"{path} can't be written: {folder} is a file.")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} can't be written to.")


def require_figure(path: Path | None) -> None:
    """Refuse, before the work, a figure in no known format, or in no place."""
    if path is not None:
        from curvature.plots.output import require_format

        require_format(_kind(path))
        require_place(path)


def write_figure(path: Path, figure: Any, output: Output) -> None:
    """Write the figure in the format of the file's name, whole, and say where it is."""
    from curvature.plots import figure_bytes

    data = figure_bytes(figure, _kind(path))
    write_whole(path, lambda file: file.write(data))
    output.lines([str(path)])


def _kind(path: Path) -> str:
    return path.suffix.lower().lstrip(".") or "nothing"
