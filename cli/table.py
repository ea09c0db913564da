"""`curv table`: all rows of a study in one file."""

from __future__ import annotations

from pathlib import Path

import click

from curvature.runs.csv_table import write_csv
from curvature.runs.table import write_parquet, write_rows

from .tables import SOURCES, read_sources, refuse_to_replace, where_option

WRITERS = {"csv": write_csv, "jsonl": write_rows, "parquet": write_parquet}


@click.command()
@SOURCES
@click.option("--format", "kind", type=click.Choice(list(WRITERS)), help="Else by --out, or csv.")
@click.option("--out", type=click.Path(path_type=Path), help="The file.  [default: table.FORMAT]")
@where_option
def table(
    sources: tuple[Path, ...], kind: str | None, out: Path | None, conditions: tuple[str, ...]
) -> None:
    """Gather the rows of SOURCES (folders of runs, .csv or .jsonl files) into one tidy table."""
    named = out.suffix.lower().lstrip(".") if out else ""
    kind = kind or (named if named in WRITERS else "csv")
    path = out or Path(f"table.{kind}")
    inside = any(source.resolve() in path.resolve().parents for source in sources)
    if kind == "jsonl" and inside:
        raise ValueError(
            f"{path} would lie among the rows that it copies, and be read with them the next "
            "time: choose an --out outside."
        )
    refuse_to_replace(path)
    WRITERS[kind](path, read_sources(sources, conditions))
    click.echo(str(path))
