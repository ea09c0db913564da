"""`curv analyze`: the curvature at checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from curvature.analysis import Interrupted, Row
from curvature.analysis import analyze as analyze_checkpoint
from curvature.runs.checkpoint import load_checkpoint
from curvature.runs.config import SPLITS, AnalysisConfig
from curvature.runs.csv_table import write_csv
from curvature.runs.saved_folders import require_checkpoint
from curvature.runs.table import write_rows

from .errors import BAD_INPUT, INTERRUPTED, one_line
from .options import completing, more_options, options_from
from .output import WEIGHTS, Output, output_options
from .tables import refuse_to_replace, require_place

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
@click.option(
    "--data",
    multiple=True,
    shell_complete=completing("data"),
    help="Data: NAME[:DIR][,key=value…], or train, val or test of the checkpoint's own, which are "
    "the default; may be repeated.",
)
@click.option(
    "--split",
    multiple=True,
    default=("test",),
    show_default=True,
    type=click.Choice(SPLITS),
    help="Part of the data; may be repeated.",
)
@options_from(AnalysisConfig, leave_out=("data", "split"))
@more_options("model", "data", "loss")
@output_options
def analyze(
    checkpoints: tuple[Path, ...],
    out: Path | None,
    weights: str,
    trust: bool,
    data: tuple[str, ...],
    split: tuple[str, ...],
    output: Output,
    **fields: Any,
) -> None:
    """Measure the curvature at each of CHECKPOINTS: Tr(H) and λ_max, with their uncertainty.

    A checkpoint of ours says what it is; for anyone else's, add --model and --data:

    \b
      curv analyze runs/ID/checkpoint.pt --trace --eigmax
      curv analyze net.pkl --model resnet20 --data cifar10:DIR --trace --eigmax

    Without --trace, --eigmax, --eigmin or --top, both Tr(H) and λ_max. --data may be repeated. The
    folder of a run, or of Hugging Face's save_pretrained, is a checkpoint too.
    """
    configs = _configs(data, split, fields)
    write = _writer(out)
    for path in checkpoints:
        require_checkpoint(path)
    rows: list[Row] = []
    failures = 0
    for path in checkpoints:
        checkpoint = load_checkpoint(path, weights=weights)
        for title, config in configs.items():
            interrupted = False
            try:
                found = analyze_checkpoint(
                    checkpoint, config, trust=trust, announce=output.say, report=output.report
                )
            except Interrupted as stopped:
                if not (stopped.rows or rows):
                    raise
                found, interrupted = stopped.rows, True
            except BAD_INPUT as error:
                if len(configs) == 1:
                    raise
                failures += 1
                click.echo(f"curv: {path} on {title}: {one_line(error)}", err=True)
                continue
            found = [{"checkpoint": str(path), **row} for row in found]
            shown = f"{path} on {title}" if len(configs) > 1 else str(path)
            output.show(f"{shown} (interrupted)" if interrupted else shown, found)
            rows += found
            write(rows)  # what is measured is safe, whatever becomes of the next
            if interrupted:
                output.say(f"Interrupted: of {shown} only what was finished is kept.")
                raise click.exceptions.Exit(INTERRUPTED)
    if failures:
        raise click.exceptions.Exit(2)


def _configs(
    data: tuple[str, ...], splits: tuple[str, ...], fields: dict[str, Any]
) -> dict[str, AnalysisConfig]:
    """An analysis for every data set and split, by what it is called."""
    configs = {}
    for each in data or (None,):
        if each in SPLITS:
            configs[each] = AnalysisConfig(**fields, split=each)
            continue
        for split in splits:
            names = [each or "", split if len(splits) > 1 or each is None else ""]
            title = ", ".join(filter(None, names))
            configs[title] = AnalysisConfig(**fields, data=each, split=split)
    return configs


def _writer(out: Path | None) -> Callable[[list[Row]], None]:
    """What writes the rows to ``out``; a place that can't be written is refused at once."""
    if out is None:
        return lambda rows: None
    table = TABLES.get(out.suffix.lower())
    if table is None:
        raise ValueError(f"`--out` takes a file in {' or '.join(TABLES)}, not `{out}`.")
    refuse_to_replace(out)
    require_place(out)
    return lambda rows: table(out, rows)
