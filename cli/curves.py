"""`curv curves`: runs over their epochs."""

from __future__ import annotations

from pathlib import Path

import click

from curvature.runs.table import read_table
from curvature.statistics import along_training, where

from .output import Output, output_options
from .tables import SOURCES, read_histories, read_sources, where_option, write_figure


@click.command()
@SOURCES
@click.option(
    "--panel",
    "panels",
    multiple=True,
    metavar="NAME",
    help="train_loss, val_loss, val_accuracy, eta, rho, eigmax, trace; all there are by default.",
)
@click.option("--analysis", help="The tracker whose rows are drawn, where runs have several.")
@where_option
@click.option("--out", default="curves.png", type=click.Path(path_type=Path), show_default=True)
@output_options
def curves(
    sources: tuple[Path, ...],
    panels: tuple[str, ...],
    analysis: str | None,
    conditions: tuple[str, ...],
    out: Path,
    output: Output,
) -> None:
    """Draw training in SOURCES (folders of runs): losses, step sizes, tracked curvature.

    \b
      curv train --track eigmax,trace --track-every 10
      curv curves runs --panel eigmax --panel trace
    """
    from curvature.plots import caption_of, training_curves
    from curvature.plots.training_curves import PANELS

    for name in panels:
        if name not in PANELS:
            raise ValueError(f"There is no panel `{name}`; there are {', '.join(PANELS)}.")
    folders = [source for source in sources if source.is_dir()]  # may have a history alone
    files = [source for source in sources if not source.is_dir()]
    measured = [row for folder in folders for row in read_table(folder)] + read_sources(files)
    rows = where([*read_histories(sources), *along_training(measured, analysis)], conditions)
    figure = training_curves(rows, panels=panels or tuple(PANELS))
    write_figure(out, figure, output)
    output.say(caption_of(figure))
    output.answer(rows)
