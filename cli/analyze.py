"""`curv analyze`: the curvature at checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from curvature.analysis import Row
from curvature.analysis import analyze as analyze_checkpoint
from curvature.runs.checkpoint import load_checkpoint
from curvature.runs.config import AnalysisConfig
from curvature.runs.csv_table import write_csv
from curvature.runs.files import require_file
from curvature.runs.table import write_rows

from .options import options_from
from .output import WEIGHTS, Output, output_options
from .tables import require_place

TABLES = {".jsonl": write_rows, ".csv": write_csv}


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write the rows to this file, .jsonl or .csv; what it held is replaced.",
)
@click.option("--weights", default="auto", help=WEIGHTS)
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
    write = _writer(out)
    for path in checkpoints:
        require_file(path, "checkpoint")
    rows: list[Row] = []
    for path in checkpoints:
        checkpoint = load_checkpoint(path, weights=weights)
        found = analyze_checkpoint(
            checkpoint, config, trust=trust, announce=output.say, report=output.report
        )
        found = [{"checkpoint": str(path), **row} for row in found]
        output.show(str(path), found)
        rows += found
        write(rows)  # what is measured is safe, whatever becomes of the next


def _writer(out: Path | None) -> Callable[[list[Row]], None]:
    """What writes the rows to ``out``; a place that can't be written is refused at once."""
    if out is None:
        return lambda rows: None
    table = TABLES.get(out.suffix.lower())
    if table is None:
        raise ValueError(f"`--out` takes a file in {' or '.join(TABLES)}, not `{out}`.")
    require_place(out)
    return lambda rows: table(out, rows)
