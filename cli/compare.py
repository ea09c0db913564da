"""`curv compare`: networks side by side; or optimizers at their best settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from curvature.comparison.sources import has_networks
from curvature.plots.style import levels
from curvature.runs.config import AnalysisConfig
from curvature.runs.rows import Row
from curvature.statistics import Verdict, at_best, best_settings, is_tracked, select, summarize
from curvature.statistics import compare as verdicts_on
from curvature.statistics.settings import LARGER_IS_BETTER, SMALLER_IS_BETTER

from .compare_networks import METRICS
from .compare_networks import run as compare_networks
from .options import more_options, options_from
from .output import TITLES, WEIGHTS, Output, number, output_options
from .tables import read_sources, require_columns, selection_options, write_figure

SETTING = ("run.optimizer", "run.lr", "run.weight_decay")
CHOICES = (*LARGER_IS_BETTER, *SMALLER_IS_BETTER)
NETWORKS_ONLY = ("table", "labels", "against", "weights", "trust")
SELECTION = ("on", "block", "analysis", "conditions")
STUDY_ONLY = ("choose_by", "on", "block", "conditions")


@click.command()
@click.argument("sources", nargs=-1, type=click.Path(path_type=Path))
@click.option("--metric", "metrics", multiple=True, help=f"Repeatable; {', '.join(METRICS)}.")
@click.option("--out", type=click.Path(path_type=Path), help="A figure: .png, .svg or .pdf.")
@click.option(
    "--table",
    type=click.Path(path_type=Path),
    help="Networks: write their rows to this file, .jsonl, .csv or .parquet.",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="NAME[=PATH]",
    help="Networks: what to call one; or without =PATH one for each, in their order.",
)
@click.option("--against", metavar="NAME", help="Networks: which the others are held against.")
@click.option("--weights", default="auto", help=WEIGHTS)
@click.option(
    "--trust", is_flag=True, help="Import what a checkpoint itself names as module:callable."
)
@options_from(AnalysisConfig)
@more_options("model", "data", "loss")
@click.option(
    "--choose-by",
    type=click.Choice(CHOICES),
    default="accuracy",
    show_default=True,
    help="Optimizers: what chooses the best setting, on the validation data.",
)
@selection_options
@output_options
@click.pass_context
def compare(
    context: click.Context,
    sources: tuple[Path, ...],
    metrics: tuple[str, ...],
    out: Path | None,
    output: Output,
    **options: Any,
) -> None:
    """Compare networks, or the optimizers of a study: is one flatter, or is it the noise?

    Checkpoints, run folders and files of rows by `curv analyze` are single networks: checkpoints
    are measured under one protocol, rows that were measured otherwise are refused by name.
    Another folder of runs, or its table, is a study: each optimizer at its best setting.

    \b
      curv compare sgd.pt sam.pt --out figure.pdf
      curv compare a.pkl b.pkl --model resnet20 --data cifar10:DIR --examples 1000
      curv compare sweep
    """
    fields = {f.name: options.pop(f.name) for f in dataclasses.fields(AnalysisConfig)}
    if not sources:
        raise click.UsageError("Missing argument 'SOURCES...'.")
    of_networks = [has_networks(path) for path in sources]
    if not any(of_networks):
        _refuse_typed(context, (*fields, *NETWORKS_ONLY), f"{sources[0]} is a study")
        study = {name: options[name] for name in ("choose_by", *SELECTION)}
        return _compare_optimizers(sources, metrics, out, output, **study)
    if not all(of_networks):
        study_path = sources[of_networks.index(False)]
        raise ValueError(f"{study_path} is a study of many runs: compare it alone, or name runs.")
    _refuse_typed(context, STUDY_ONLY, f"{sources[0]} is a single network")
    networks = {name: options[name] for name in (*NETWORKS_ONLY, "analysis")}
    compare_networks(
        sources, AnalysisConfig(**fields), output, metrics=metrics, out=out, **networks
    )
    return None


def _refuse_typed(context: click.Context, names: Sequence[str], why: str) -> None:
    """An option that would do nothing."""
    for parameter in context.command.params:
        if parameter.name in names:
            assert parameter.name is not None
            source = context.get_parameter_source(parameter.name)
            if source is click.core.ParameterSource.COMMANDLINE:
                raise ValueError(
                    f"{why}, for which `{parameter.opts[0]}` does nothing: leave it out."
                )


def _compare_optimizers(
    sources: tuple[Path, ...],
    metrics: tuple[str, ...],
    out: Path | None,
    output: Output,
    *,
    choose_by: str,
    on: str,
    block: str | None,
    analysis: str | None,
    conditions: tuple[str, ...],
) -> None:
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

        figure = comparison(table, metrics=metrics, note=_how_chosen(best, choose_by))
        output.say(figure.get_label())
        write_figure(out, figure, output)


def _how_chosen(best: Sequence[Row], choose_by: str) -> str:
    if not any(row.get("settings", 1) > 1 for row in best):
        return ""
    return f"Each at its setting of the best {choose_by} on the validation data."


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
    return f"{min(max(value, 0), 1):.2%}" if row["metric"] == "accuracy" else number(value, 3)
