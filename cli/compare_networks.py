"""`curv compare` of single networks: measured under one protocol, in a table and a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from curvature.comparison import Comparison
from curvature.comparison import compare as compare_networks
from curvature.comparison.side_by_side import METRICS
from curvature.runs.config import AnalysisConfig
from curvature.runs.csv_table import write_csv
from curvature.runs.messages import harmless
from curvature.runs.rows import Row, plain_row
from curvature.runs.table import write_parquet, write_rows
from curvature.statistics.networks import Difference

from .output import TITLES, Output, number
from .tables import refuse_to_replace, require_figure, require_place, write_figure

WRITERS = {".jsonl": write_rows, ".csv": write_csv, ".parquet": write_parquet}
BESIDE = ("loss", "weight_norm")  # what the curvatures are read with


def run(
    sources: Sequence[Path],
    config: AnalysisConfig,
    output: Output,
    *,
    metrics: tuple[str, ...],
    out: Path | None,
    table: Path | None,
    **options: Any,
) -> None:
    """Compare, print, and write what was asked for; a place that can't be written is told first."""
    if table is not None and table.suffix.lower() not in WRITERS:
        raise ValueError(f"`--table` takes a file in {', '.join(WRITERS)}, not `{table}`.")
    require_figure(out)
    if table is not None:
        refuse_to_replace(table, "--table")
        require_place(table)
    metrics = metrics or METRICS

    def keep(rows: Sequence[Row]) -> None:
        """What is measured is safe, whatever becomes of the next."""
        if table is not None:
            WRITERS[table.suffix.lower()](table, rows)

    found = compare_networks(
        [str(source) for source in sources],
        config,
        metrics=metrics,
        announce=output.say,
        report=output.report,
        keep=keep,
        **options,
    )
    output.table(_values(found, metrics))
    output.lines([""])
    output.table(_differences(found, metrics))
    output.answer(_answer(found))
    keep(found.rows)
    if table is not None:
        output.lines([str(table)])
    if out is not None:
        figure = found.figure(metrics=metrics)
        output.say(figure.get_label())
        write_figure(out, figure, output)


def _values(found: Comparison, metrics: Sequence[str]) -> Table:
    shown = (*metrics, *(metric for metric in BESIDE if metric not in metrics))
    shown = tuple(m for m in shown if any(row.get("metric") == m for row in found.rows))
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for metric in shown:
        table.add_column(TITLES.get(metric, metric), justify="right")
    for name in found.names:
        mine = {row["metric"]: row for row in found.rows if row["name"] == name}
        cells = [_value(mine.get(metric)) for metric in shown]
        table.add_row(Text(harmless(name)), *map(Text, cells))
    return table


def _value(row: Row | None) -> str:
    if row is None:
        return "–"
    if row.get("value") is None:
        return harmless(str(row.get("status") or "–"))
    if row["metric"] == "accuracy":
        error = row.get("sampling_error")
        return f"{row['value']:.2%}" + (f" ± {error:.2%}" if error is not None else "")
    error = row.get("standard_error")
    error = row.get("residual") if error is None else error
    value = number(row["value"]) + (f" ± {number(error, 2)}" if error is not None else "")
    return value + (" NOT CONVERGED" if row.get("converged") is False else "")


def _differences(found: Comparison, metrics: Sequence[str]) -> Table:
    against = found.differences[0].against
    table = Table(box=None, pad_edge=False, title_justify="left")
    table.title = Text(harmless(f"against {against}, with intervals that hold together at 95 %"))
    table.add_column("")
    for metric in metrics:
        table.add_column(TITLES.get(metric, metric))
    for name in found.names:
        mine = {d.metric: d for d in found.differences if d.name == name}
        cells = [_difference(mine[m], against) if m in mine else "–" for m in metrics]
        if name != against:
            table.add_row(Text(harmless(name)), *map(Text, cells))
    return table


def _difference(found: Difference, against: str) -> str:
    other = f"against {found.against}: " if found.against != against else ""
    if found.value is None or found.low is None or found.high is None:
        return harmless(other + found.reason)
    if found.metric == "accuracy":
        value = f"{found.value:+.2%} [{found.low:+.2%}, {found.high:+.2%}]"
    else:
        sign = "× " if found.ratio else "" if found.value < 0 else "+"
        value = f"{sign}{number(found.value, 3)} [{number(found.low, 3)}, {_end(found.high)}]"
    return harmless(f"{other}{value} {' '.join(filter(None, (found.word, found.reason)))}")


def _end(value: float) -> str:
    return number(value, 3) if math.isfinite(value) else "∞"


def _answer(found: Comparison) -> dict[str, Any]:
    differences = [
        {k: None if v == math.inf else v for k, v in vars(d).items()} for d in found.differences
    ]
    rows = [plain_row(row) for row in found.rows]
    return {"networks": list(found.names), "rows": rows, "differences": differences}
