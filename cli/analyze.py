"""`curv analyze`: the curvature at checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from curvature.analysis import Row
from curvature.analysis import analyze as analyze_checkpoint
from curvature.runs.checkpoint import load_checkpoint
from curvature.runs.config import AnalysisConfig
from curvature.runs.csv_table import write_csv
from curvature.runs.table import write_rows

from .options import options_from
from .output import Output, output_options


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write the rows here: .jsonl, or .csv."
)
@click.option("--weights", default="auto", help="Which weights of a file with several: auto, ema.")
@click.option(
    "--trust", is_flag=True, help="Import what the checkpoint itself names as module:callable."
)
@options_from(AnalysisConfig)
@output_options
def analyze(
    checkpoints: tuple[Path, ...],
    out: Path | None,
    weights: str,
    trust: bool,
    output: Output,
    **fields: Any,
) -> None:
    """Measure the curvature at each of CHECKPOINTS: Tr(H) and λ_max, with their uncertainty.

    A checkpoint of ours says what it is; for anyone else's, add --model and --data:

    \b
      curv analyze runs/ID/checkpoint.pt --trace --eigmax
      curv analyze net.pkl --model resnet20 --data cifar10:DIR --trace --eigmax

    Without --trace, --eigmax, --eigmin or --top, both Tr(H) and λ_max.
    """
    config = AnalysisConfig(**fields)
    rows: list[Row] = []
    for path in checkpoints:
        checkpoint = load_checkpoint(path, weights=weights)
        found = analyze_checkpoint(
            checkpoint, config, trust=trust, announce=output.say, report=output.report
        )
        found = [{"checkpoint": str(path), **row} for row in found]
        output.show(str(path), found)
        rows += found
    if out:
        (write_csv if out.suffix == ".csv" else write_rows)(out, rows)
