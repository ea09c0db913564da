"""`curv train`: from a configuration to a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import torch

from curvature.runs.config import RunConfig
from curvature.runs.rows import TRACKING
from curvature.runs.sinks import tensorboard_sink
from curvature.training import Progress, TrainingResult
from curvature.training import train as train_run

from .errors import INTERRUPTED
from .options import more_options, options_from
from .output import Output, number, output_options
from .tracking import tracking_options


@click.command()
@options_from(RunConfig)
@more_options("model", "data", "loss")
@click.option(
    "--out",
    default="runs",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the runs; this one goes into a folder of its own, named by its id.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda[:i] or mps.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; all cores by default.")
@click.option(
    "--resume/--restart",
    default=True,
    show_default=True,
    help="Go on where the run stopped, exactly; or start over.",
)
@click.option(
    "--checkpoint-every",
    type=click.IntRange(1),
    metavar="N",
    help="Keep a checkpoint every N epochs (with --steps: every N steps).",
)
@click.option(
    "--evaluate-on",
    multiple=True,
    default=("val", "test"),
    show_default=True,
    metavar="DATA",
    help="At the end: val, test, or NAME[:DIR][,key=value…]; may be repeated.",
)
@click.option("--tensorboard", is_flag=True, help="Write the history for TensorBoard too.")
@tracking_options
@output_options
def train(
    out: Path,
    device: str,
    threads: int | None,
    resume: bool,
    checkpoint_every: int | None,
    evaluate_on: tuple[str, ...],
    tensorboard: bool,
    track: Callable[..., list[Any]],
    output: Output,
    **fields: Any,
) -> None:
    """Train a network; as it stands, a small one on handwritten digits, in seconds.

    \b
      curv train --optimizer sam --rho 0.1 --seed 1
      curv train --model resnet20 --data cifar10:DIR --optimizer msgd --schedule cosine
      curv train --track eigmax,trace --track-every 10

    The run's folder is OUT/ID, where ID is the hash of what is trained: the same command again
    goes on where it stopped, and once it is done only evaluates on what --evaluate-on adds. A
    divergence is a result: it is recorded and told, and the exit code is 0, as in a sweep.
    """
    if threads:
        torch.set_num_threads(threads)
    config = RunConfig(**fields)
    sinks = [tensorboard_sink(out / config.id / "tensorboard")] if tensorboard else []
    with _stopping(output.say) as stop, _bar(output) as report:
        trackers = track(config, sinks)
        result = train_run(
            config,
            out,
            device=device,
            callbacks=trackers,
            sinks=sinks,
            report=report,
            announce=output.say,
            stop=stop,
            resume=resume,
            checkpoint_every=checkpoint_every,
            evaluate_on=evaluate_on,
        )
    _show(result, output)
    if trackers and not result.folder.rows(TRACKING).exists():
        output.say(
            "No curvature was tracked: the run was done before (--restart trains it again), or it "
            "has fewer steps than --track-every."
        )
    if result.status == "interrupted":
        raise click.exceptions.Exit(INTERRUPTED)


@contextmanager
def _stopping(say: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C (or a scheduler's SIGTERM) end the run after the present step."""
    asked = threading.Event()

    def stop(number: int, frame: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before[signal.SIGINT])  # a second one doesn't wait
        say("Stopping after this step …")

    signals = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():  # only it may handle signals
        yield asked.is_set
        return
    before = {each: signal.signal(each, stop) for each in signals}
    try:
        yield asked.is_set
    finally:
        for each in signals:
            signal.signal(each, before[each])


@contextmanager
def _bar(output: Output) -> Iterator[Callable[[Progress], None]]:
    with output.bar() as bar:
        task = bar.add_task("loading", total=None)

        def report(done: Progress) -> None:
            accuracy = "" if done.accuracy is None else f"  accuracy {done.accuracy:.1%}"
            bar.update(
                task,
                completed=done.step,
                total=done.steps,
                description=f"epoch {done.epoch}/{done.epochs}  loss {done.loss:.4f}{accuracy}"
                f"  η {done.eta:.3g}",
            )

        yield report


def _show(result: TrainingResult, output: Output) -> None:
    output.answer(_as_json(result))
    if result.status == "diverged":
        output.say(
            f"Diverged after step {result.step}: {result.message} The last finite weights are in "
            f"{result.checkpoint}."
        )
        return
    whole = [row for row in result.rows if row["block"] is None or "mean" in row["block"]]
    for split in dict.fromkeys(row["analysis"] for row in whole):
        rows = [row for row in whole if row["analysis"] == split]
        output.show(f"{rows[0]['split']}: {rows[0]['data_name']}", rows)
    if result.status == "interrupted":
        output.say(f"Stopped after step {result.step}. The same command goes on from there.")
        return
    seconds = number(result.metrics.get("seconds"), 3)
    output.say(f"Trained in {seconds} s. Checkpoint: {result.checkpoint}")
    if result.folder.rows(TRACKING).exists():
        output.say(f"Its curvature while it trained: curv curves {result.folder.path}")
    output.say(f"Its curvature: curv analyze {result.checkpoint} --trace --eigmax")


def _as_json(result: TrainingResult) -> dict[str, Any]:
    return {
        "run": result.folder.path.name,
        "status": result.status,
        "message": result.message,
        "epoch": result.epoch,
        "step": result.step,
        "checkpoint": str(result.checkpoint),
        "metrics": result.metrics,
        "rows": list(result.rows),
    }
