"""`curv compare`: optimizers at their best settings, and what may be said of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from curvature.plots.style import levels
from curvature.runs.rows import Row
from curvature.statistics import Verdict, at_best, best_settings, is_tracked, select, summarize
from curvature.statistics import compare as verdicts_on
from curvature.statistics.settings import LARGER_IS_BETTER, SMALLER_IS_BETTER

from .output import TITLES, Output, number, output_options
from .tables import SOURCES, read_sources, require_columns, selection_options, write_figure

METRICS = ("accuracy", "trace", "eigmax")
SETTING = ("run.optimizer", "run.lr", "run.weight_decay")
CHOICES = (*LARGER_IS_BETTER, *SMALLER_IS_BETTER)


@click.command()
@SOURCES
@click.option("--metric", "metrics", multiple=True, help=f"Repeatable; {', '.join(METRICS)}.")
@click.option(
    "--choose-by",
    type=click.Choice(CHOICES),
    default="accuracy",
    show_default=True,
    help="What chooses the best setting, on the validation data.",
)
@selection_options
@click.option("--out", type=click.Path(path_type=Path), help="A figure: .png, .svg or .pdf.")
@output_options
def compare(
    sources: tuple[Path, ...],
    metrics: tuple[str, ...],
    choose_by: str,
    on: str,
    block: str | None,
    analysis: str | None,
    conditions: tuple[str, ...],
    out: Path | None,
    output: Output,
) -> None:
    """Compare optimizers at their best settings: is one flatter, or is it the noise?

    SOURCES are folders of runs, or .csv or .jsonl files. Rows that were measured differently are
    refused by name; a difference is named only where the seeds' spread can't explain it.
    """
    rows = read_sources(sources, conditions)
    require_columns(rows, ("metric", "value", *SETTING))
    best = best_settings(rows, metric=choose_by)
    _say_who_is_missing(rows, best, choose_by, output)
    chosen = at_best(rows, best)
    there = {row.get("metric") for row in chosen if analysis or not is_tracked(row)}
    metrics = metrics or tuple(m for m in METRICS if m in there)
    table: list[Row] = []
    answer: dict[str, Any] = {"best": best, "means": [], "verdicts": []}
    for metric in metrics:
        seeds = select(chosen, metric, on, block=block, analysis=analysis)
        order = levels(seeds, "run.optimizer")
        seeds.sort(key=lambda row: order.index(row["run.optimizer"]))
        means = summarize(seeds, by=("run.optimizer",))
        means.sort(key=lambda row: order.index(row["run.optimizer"]))
        verdicts = verdicts_on(seeds)
        table += [*seeds, *means]
        answer["means"] += means
        answer["verdicts"] += [{**vars(v), "verdict": str(v)} for v in verdicts]
        title = f"{TITLES.get(metric, metric)} on {on}"
        output.lines([title, *_mean_lines(means), *_verdict_lines(verdicts), ""])
    output.answer(answer)
    if out:
        from curvature.plots import comparison

        write_figure(out, comparison(table, metrics=metrics), output)


def _say_who_is_missing(
    rows: Sequence[Row], best: Sequence[Row], choose_by: str, output: Output
) -> None:
    """Those of whom no setting came through: they are part of the answer too."""
    there = {str(row["run.optimizer"]) for row in best}
    swept = dict.fromkeys(str(row.get("run.optimizer")) for row in rows)
    missing = [name for name in swept if name not in there]
    if not best:
        raise ValueError(
            f"No setting of {', '.join(missing)} has a value of {choose_by} on the validation "
            "data: all diverged or failed, so there is nothing to compare."
        )
    for name in missing:
        output.say(f"{name}: no setting has a value of {choose_by} on the validation data.")


def _mean_lines(means: Sequence[Row]) -> list[str]:
    cells = [
        (
            str(row["run.optimizer"]),
            "lr –" if row["run.lr"] is None else f"lr {row['run.lr']:g}",
            f"decay {row['run.weight_decay'] or 0:g}",
            _text(row["value"], row),
            f"[{_text(row['low'], row)}, {_text(row['high'], row)}]" if row["n"] > 1 else "",
            f"n={row['n']}" + (f", {row['unconverged']} unconverged" if row["unconverged"] else ""),
        )
        for row in means
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = [(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in cells]
    return ["  " + "  ".join(line).rstrip() for line in padded]


def _verdict_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """The differences that may be named, then the pairs of which none may, by the reason."""
    lines = []
    rest: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict.winner is None:
            rest.setdefault(verdict.reason, []).append(f"{verdict.a} and {verdict.b}")
            continue
        value, low, high = (number(x, 3) for x in verdict.of_loser)
        what = f"{verdict.loser} {'/' if verdict.ratio else '−'} {verdict.winner}"
        lines.append(f"  {verdict}: {what} = {value} [{low}, {high}], p = {number(verdict.p, 2)}")
    lines += [f"  indistinguishable ({why}): {', '.join(pairs)}" for why, pairs in rest.items()]
    return lines


def _text(value: float | None, row: Row) -> str:
    if value is None:
        return str(row["status"]) if row["value"] is None else "–"
    return f"{value:.2%}" if row["metric"] == "accuracy" else number(value, 3)
