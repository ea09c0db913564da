"""`curv report`: a study on one page."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from curvature.runs.files import write_text

from .tables import SOURCES, read_histories, read_sources, where_option


@click.command()
@SOURCES
@click.option("--out", type=click.Path(path_type=Path), default="report.html", show_default=True)
@click.option("--on", default="test", show_default=True, help="What optimizers are compared on.")
@click.option("--title", default="Flatness of minima", show_default=True)
@click.option("--made-by", multiple=True, help="A command that made the runs; stands on the page.")
@where_option
def report(
    sources: tuple[Path, ...],
    out: Path,
    on: str,
    title: str,
    made_by: tuple[str, ...],
    conditions: tuple[str, ...],
) -> None:
    """Write one HTML file about the study in SOURCES: figures, verdicts, trust, provenance."""
    from curvature.report import render

    rows = read_sources(sources, conditions)
    again = ["curv", "report", *map(str, sources), "--out", str(out), "--on", on, "--title", title]
    again += [part for condition in conditions for part in ("--where", condition)]
    page = render(
        rows,
        on=on,
        histories=read_histories(sources),
        title=title,
        commands=[*made_by, shlex.join(again)],
    )
    write_text(out, page)
    click.echo(str(out))
