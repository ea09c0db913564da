"""`curv sweep`: a grid of runs, trained and measured."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.progress import TextColumn

from curvature.runs.config import SPLITS, AnalysisConfig, RunConfig
from curvature.sweep import SweepProgress, grid, values
from curvature.sweep import estimate as estimate_sweep
from curvature.sweep import sweep as run_sweep

from .errors import INTERRUPTED
from .options import completing, more_options, options_from
from .output import Output, lasting, output_options
from .sweep_answers import SWEPT, show_estimate, show_result

ELSEWHERE = ("model", "data", "split", "loss", "seed", "batch_size", "device")
LOG_SECONDS = 30.0  # between lines of progress where there is no terminal


def _numbers(flag: str, help: str) -> Callable[[Any], Any]:
    return click.option(flag, multiple=True, metavar="X,X…", help=help)


@click.command()
@click.option(
    "--optimizers",
    "--optimizer",
    default=("sgd",),
    show_default=True,
    multiple=True,
    metavar="NAME,NAME…",
    shell_complete=completing("optimizer"),
    help="sgd, msgd, adam, sam, sa-sgd, sa-sam.",
)
@_numbers("--lr", "Learning rates; adam=X,X… for one optimizer alone.  [default: 0.1]")
@_numbers("--weight-decay", "Weight decays; likewise.  [default: 0.0]")
@_numbers("--rho", "Radii of the ascent step, of sam.  [default: 0.05]")
@click.option(
    "--seeds", default=1, show_default=True, type=click.IntRange(1), help="Runs of each cell."
)
@click.option("--seed", default=0, show_default=True, help="The first seed.")
@options_from(RunConfig, leave_out=SWEPT)
@more_options("model", "data", "loss")
@click.option(
    "--analyze-on",
    multiple=True,
    default=("test",),
    show_default=True,
    metavar="DATA",
    help="Measure the curvature on train, val, test, or NAME[:DIR][,key=value…]; may be repeated.",
)
@click.option(
    "--evaluate-on",
    multiple=True,
    default=("val", "test"),
    show_default=True,
    metavar="DATA",
    help="Loss and accuracy on these, and on other data that is analyzed; may be repeated.",
)
@options_from(AnalysisConfig, leave_out=ELSEWHERE)
@click.option("--analysis-seed", default=0, show_default=True, help="Seed of the probes.")
@click.option(
    "--analysis-batch-size", default=128, show_default=True, help="Examples that share a probe."
)
@click.option(
    "--out",
    default="sweep",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the sweep; each run has a folder of its own in it.",
)
@click.option(
    "--jobs", default=1, show_default=True, type=click.IntRange(1), help="Processes at a time."
)
@click.option(
    "--threads-per-job",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="CPU threads of each; the last digits of the results depend on it, not on --jobs.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option(
    "--timeout",
    type=float,
    metavar="SECONDS",
    help="Kill a training or an analysis that takes longer, and try it once more.",
)
@click.option("--retry-failed", is_flag=True, help="Try what is recorded as failed again.")
@click.option("--dry-run", is_flag=True, help="Only show the grid and what it will cost.")
@output_options
def sweep(
    out: Path,
    jobs: int,
    threads_per_job: int,
    timeout: float | None,
    dry_run: bool,
    output: Output,
    **given: Any,
) -> None:
    """Train a grid of networks and measure each: loss, accuracy, Tr(H) and λ_max.

    \b
      curv sweep --optimizers sgd,sam,sa-sam --lr 0.01,0.1,1 --weight-decay 0,1e-3 --seeds 3
      curv sweep --optimizers sgd,adam --lr 0.1,1 --lr adam=1e-3,1e-2 --jobs 2

    The same command again goes on where it stopped, and never does twice what is done; several
    at a time share one folder. On Linux and macOS.
    """
    configs, analyses = _configs(given), _analyses(given)
    elsewhere = [each.data for each in analyses if each.data is not None]
    asked: dict[str, Any] = {
        "analyses": analyses,
        "evaluate_on": [*given["evaluate_on"], *elsewhere],
        "threads": threads_per_job,
        "device": given["device"],
        "retry_failed": given["retry_failed"],
    }
    if dry_run:
        show_estimate(estimate_sweep(configs, out, **asked), configs, jobs, output)
        return
    limits = {"jobs": jobs, "timeout": timeout}
    with _terminable(), _progress(output) as report:
        try:
            result = run_sweep(configs, out, **asked, **limits, report=report, announce=output.say)
        except KeyboardInterrupt:
            output.say("Stopped. The same command goes on from there.")
            raise click.exceptions.Exit(INTERRUPTED) from None
    show_result(result, configs, output)


def _configs(given: dict[str, Any]) -> list[RunConfig]:
    same = {f.name: given[f.name] for f in fields(RunConfig) if f.name not in SWEPT}
    return grid(
        RunConfig(**same, seed=given["seed"]),
        optimizers=[name for text in given["optimizers"] for name in text.split(",")],
        lr=values(given["lr"], "lr"),
        weight_decay=values(given["weight_decay"], "weight_decay"),
        rho=values(given["rho"], "rho"),
        seeds=given["seeds"],
    )


def _analyses(given: dict[str, Any]) -> list[AnalysisConfig]:
    same = {f.name: given[f.name] for f in fields(AnalysisConfig) if f.name not in ELSEWHERE}
    same |= {"seed": given["analysis_seed"], "batch_size": given["analysis_batch_size"]}
    return [
        AnalysisConfig(**same, split=on) if on in SPLITS else AnalysisConfig(**same, data=on)
        for on in given["analyze_on"]
    ]


@contextmanager
def _terminable() -> Iterator[None]:
    """A scheduler's SIGTERM ends the sweep as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only it may handle signals
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _progress(output: Output) -> Iterator[Callable[[SweepProgress], None]]:
    """A bar on a terminal; elsewhere a line now and then."""
    told = time.monotonic()
    with output.bar(TextColumn("{task.fields[left]}")) as bar:
        task = bar.add_task("starting", total=None, left="")

        def report(done: SweepProgress) -> None:
            nonlocal told
            left = "" if done.seconds_left is None else f"{lasting(done.seconds_left)} left"
            trouble = ", ".join(
                f"{count} {what}"
                for what, count in (("diverged", done.diverged), ("failed", done.failed))
                if count
            )
            bar.update(
                task,
                completed=done.works_done,
                total=done.works,
                description=f"{done.finished}/{done.runs} runs" + (f", {trouble}" * bool(trouble)),
                left=left,
            )
            if bar.disable and time.monotonic() - told > LOG_SECONDS:
                told = time.monotonic()
                line = f"{done.finished} of {done.runs} runs", trouble, left
                output.say(", ".join(each for each in line if each))

        yield report
