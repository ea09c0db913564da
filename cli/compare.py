"""`curv compare`: optimizers at their best settings, and what may be said of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from curvature.runs.rows import Row
from curvature.statistics import Verdict, at_best, best_settings, select, summarize
from curvature.statistics import compare as verdicts_on

from .output import TITLES, number
from .tables import SOURCES, read_sources, selection_options, write_figure

METRICS = ("accuracy", "trace", "eigmax")


@click.command()
@SOURCES
@click.option("--metric", "metrics", multiple=True, help="May be repeated.  [default: those three]")
@click.option(
    "--choose-by",
    type=click.Choice(("accuracy", "loss", "calibration_error")),
    default="accuracy",
    show_default=True,
    help="What chooses the best setting, on the validation data.",
)
@selection_options
@click.option("--out", type=click.Path(path_type=Path), help="A figure: .png, .svg or .pdf.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable results on stdout.")
def compare(
    sources: tuple[Path, ...],
    metrics: tuple[str, ...],
    choose_by: str,
    on: str,
    block: str | None,
    analysis: str | None,
    conditions: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Compare optimizers at their best settings: is one flatter, or is it the noise?

    SOURCES are folders of runs, or .csv or .jsonl files. Rows that were measured differently are
    refused by name; a difference is named only where the seeds' spread can't explain it.
    """
    rows = read_sources(sources, conditions)
    best = best_settings(rows, metric=choose_by)
    chosen = at_best(rows, best)
    there = {row.get("metric") for row in chosen}
    table: list[Row] = []
    verdicts: list[Verdict] = []
    for metric in metrics or [m for m in METRICS if m in there]:
        seeds = select(chosen, metric, on, block=block, analysis=analysis)
        table += [*seeds, *summarize(seeds, by=("run.optimizer",))]
        verdicts += verdicts_on(seeds)
    if as_json:
        _print_json(best, table, verdicts)
    else:
        _print_tables(best, table, verdicts)
    if out:
        from curvature.plots import comparison

        write_figure(
            out, comparison(table, metrics=list(dict.fromkeys(r["metric"] for r in table)))
        )


def _print_tables(best: list[Row], table: list[Row], verdicts: list[Verdict]) -> None:
    console = Console(highlight=False)
    means = [row for row in table if row.get("run") is None]
    shown = Table(box=None, pad_edge=False)
    for heading in ("", "lr", "weight decay", *(TITLES.get(m, m) for m in _metrics(means))):
        shown.add_column(Text(heading), justify="left" if heading == "" else "right")
    for setting in best:
        cells = [str(setting["run.optimizer"])]
        cells += [f"{setting[name]:g}" for name in ("run.lr", "run.weight_decay")]
        for metric in _metrics(means):
            cells.append(_cell(next((r for r in means if _is(r, setting, metric)), None)))
        shown.add_row(*map(Text, cells))
    console.print(shown)
    for verdict in verdicts:
        console.print(Text(str(verdict)), soft_wrap=True)


def _print_json(best: list[Row], table: list[Row], verdicts: list[Verdict]) -> None:
    means = [row for row in table if row.get("run") is None]
    said = [{**vars(verdict), "verdict": str(verdict)} for verdict in verdicts]
    found: dict[str, Any] = {"best": best, "means": means, "verdicts": said}
    click.echo(json.dumps(found, indent=2, allow_nan=False))


def _metrics(means: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["metric"] for row in means))


def _is(row: Row, setting: Row, metric: str) -> bool:
    return row["metric"] == metric and row["run.optimizer"] == setting["run.optimizer"]


def _cell(row: Row | None) -> str:
    if row is None or row["value"] is None:
        return "–" if row is None else str(row["status"])
    percent = row["metric"] == "accuracy"

    def text(value: float) -> str:
        return f"{value:.2%}" if percent else number(value, 3)

    bounds = f" [{text(row['low'])}, {text(row['high'])}]" if row["low"] is not None else ""
    return f"{text(row['value'])}{bounds} n={row['n']}"
