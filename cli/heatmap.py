"""`curv heatmap`: a metric over learning rate × weight decay."""

from __future__ import annotations

from pathlib import Path

import click

from curvature.statistics import select, summarize
from curvature.statistics.intervals import STATISTICS

from .output import Output, output_options
from .tables import SOURCES, read_sources, require_columns, selection_options, write_figure

WIDTHS = {"single": 3.3, "double": 6.9}


@click.command()
@SOURCES
@click.option("--metric", default="accuracy", show_default=True, help="accuracy, trace, eigmax, …")
@selection_options
@click.option(
    "--statistic",
    type=click.Choice(("auto", *STATISTICS)),
    default="auto",
    show_default=True,
    help="Over seeds; auto: geometric for positive curvatures, else the mean.",
)
@click.option("--width", type=click.Choice(list(WIDTHS)), default="double", show_default=True)
@click.option("--title", help="Of the colour scale, in place of the metric's name.")
@click.option("--no-caption", is_flag=True, help="Leave the counts to the text around the figure.")
@click.option("--out", type=click.Path(path_type=Path), help="A .png, .svg or .pdf file.")
@output_options
def heatmap(
    sources: tuple[Path, ...],
    metric: str,
    on: str,
    block: str | None,
    analysis: str | None,
    conditions: tuple[str, ...],
    statistic: str,
    width: str,
    title: str | None,
    no_caption: bool,
    out: Path | None,
    output: Output,
) -> None:
    """Draw a metric over the grid of SOURCES (folders of runs, .csv or .jsonl files).

    \b
      curv heatmap runs --metric trace --on test --out trace.pdf
      curv heatmap runs --metric accuracy --on cifar10c --where run.sa_variant=poster
    """
    from curvature.plots import caption_of
    from curvature.plots import heatmap as draw

    rows = read_sources(sources, conditions)
    require_columns(rows, ("metric", "value"))
    rows = select(rows, metric, on, block=block, analysis=analysis)
    table = summarize(rows, statistic=statistic)
    figure = draw(table, width=WIDTHS[width], title=title, caption=not no_caption)
    safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in f"heatmap-{metric}-{on}")
    write_figure(out or Path(f"{safe}.png"), figure, output)
    output.say(caption_of(figure))
    output.answer(table)
