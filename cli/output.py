"""What a command says: remarks and progress on stderr, results on stdout."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from curvature.runs.messages import harmless

Row = dict[str, Any]

WEIGHTS = (
    "Which weights of a file: auto, ema, the key that they lie under, or the prefix of their "
    "names with its dot (encoder.)."
)
PIPED_WIDTH = 200  # a file has no width, and a row that is folded can't be searched

TITLES = {
    "loss": "loss",
    "accuracy": "accuracy",
    "calibration_error": "calibration error",
    "weight_norm": "‖w‖",
    "gradient_norm": "‖∇L‖",
    "trace": "Tr(H)",
    "scale_invariant_trace": "Σ w² H_ii",
    "eigmax": "λ_max",
    "eigmin": "λ_min",
}


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--json` and `--quiet`, handed to the command as one `Output`."""

    @click.option("--json", "as_json", is_flag=True, help="Machine-readable results on stdout.")
    @click.option("--quiet", is_flag=True, help="Only results, and errors.")
    @functools.wraps(command)
    def wrapped(*args: Any, as_json: bool, quiet: bool, **keywords: Any) -> Any:
        with Output(as_json=as_json, quiet=quiet) as output:
            return command(*args, output=output, **keywords)

    return wrapped


class Output:
    """Results as a table or as JSON, and a live line where stderr is a terminal."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self._as_json = as_json
        self._quiet = quiet
        self._stderr = Console(stderr=True, highlight=False)
        self._live = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=self._stderr,
            transient=True,
            disable=quiet or not self._stderr.is_terminal,
        )
        self._metric: str | None = None
        self._rows: list[Row] = []
        self._answer: Any = None

    def __enter__(self) -> Output:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self._live.stop()
        if self._as_json and (error is None or isinstance(error, click.exceptions.Exit)):
            answer = self._rows if self._answer is None else self._answer
            click.echo(json.dumps(answer, indent=2, ensure_ascii=False, allow_nan=False))

    def answer(self, value: Any) -> None:
        """What `--json` prints, where it is something else than the rows that are shown."""
        self._answer = value

    def lines(self, lines: Sequence[str]) -> None:
        """Text on stdout, unless there will be JSON."""
        if not self._as_json:
            click.echo("\n".join(map(harmless, lines)))

    def bar(self, left: ProgressColumn | None = None) -> Progress:
        """A bar with the time left, on stderr where that is a terminal."""
        return Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}", markup=False),
            left or TimeRemainingColumn(),
            console=self._stderr,
            transient=True,
            disable=self._live.disable,
        )

    def say(self, line: str) -> None:
        """A remark, on stderr."""
        if not self._quiet:
            self._stderr.print(Text(harmless(line)), style="dim", soft_wrap=True)

    def report(self, metric: str, interim: Any) -> None:
        """The current estimate ± its error, on the live line."""
        self._live.start()
        if metric != self._metric:
            for task in self._live.task_ids:
                self._live.remove_task(task)
            self._live.add_task("")
            self._metric = metric
        self._live.update(
            self._live.task_ids[0], description=f"{TITLES[metric]} {_interim(interim)}"
        )

    def table(self, table: Table) -> None:
        """A table on stdout, unless there will be JSON."""
        if self._as_json:
            return
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = PIPED_WIDTH
        console.print(table)

    def show(self, title: str, rows: Sequence[Row]) -> None:
        """A table for people, or the rows for programs once all are there."""
        self._rows += rows
        if self._as_json:
            return
        table = Table(title=Text(harmless(title)), title_justify="left", box=None, pad_edge=False)
        for heading, side in (("", "left"), ("value", "right"), ("±", "right"), ("how", "left")):
            table.add_column(heading, justify=side, overflow="fold")  # type: ignore[arg-type]
        for row in rows:
            table.add_row(*(Text(harmless(cell)) for cell in _cells(row)))
        self.table(table)
        for message in dict.fromkeys(row["message"] for row in rows if row.get("message")):
            self.say(message)


def number(value: float | None, digits: int = 5) -> str:
    """Five significant digits; powers of ten where they are many."""
    if value is None:
        return "–"
    return f"{value:,.{digits}g}" if 1e-4 <= abs(value) < 1e7 or not value else f"{value:.3e}"


def lasting(seconds: float) -> str:
    """12 s, 3 min, 2.5 h."""
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 1 else "under 1 s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _cells(row: Row) -> tuple[str, str, str, str]:
    title = TITLES.get(row["metric"], row["metric"])
    if row["metric"] == "eigenvalue":
        title = f"λ_{row['index'] + 1}"
    title += f", {row['block']}" if row.get("block") else ""
    if row["status"] != "ok":
        return title, row["status"], "–", ""
    percent = row["metric"] == "accuracy"
    value = f"{row['value']:.2%}" if percent else number(row["value"])
    return title, value, _uncertainty(row), _how(row)


def _uncertainty(row: Row) -> str:
    if row["standard_error"] is not None:
        return number(row["standard_error"], 2)
    if row["residual"] is not None:
        return f"{number(row['residual'], 2)} (residual)"
    if row["sampling_error"] is not None:
        return f"{row['sampling_error']:.2%} (sampling)"
    return ""


def _how(row: Row) -> str:
    if row["passes"] is None:
        return ""
    unit = "pass" if row["metric"].endswith("trace") else "product"
    plural = "" if row["passes"] == 1 else "es" if unit == "pass" else "s"
    got_there = "" if row["converged"] else "NOT CONVERGED, "
    cost = f"{row['passes']:.4g} {unit}{plural}, {row['seconds']:.1f} s"
    error = row.get("products_error")
    how = "" if error is None else f" by differences (error {error:.0e} ‖H‖)"
    return f"{got_there}{row['method']}{how}, {cost}"


def _interim(estimate: Any) -> str:
    if hasattr(estimate, "standard_error"):
        passes = f"{estimate.passes:.4g} pass{'es' if estimate.passes != 1 else ''}"
        return f"{number(estimate.value)} ± {number(estimate.standard_error, 2)}  {passes}"
    residual = number(estimate.residual, 2)
    return f"{number(estimate.value)}, residual {residual}  {estimate.products} products"
