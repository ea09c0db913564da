"""What `curv sweep` answers: the grid and its cost, and what became of the runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import click

from curvature.runs.config import RunConfig
from curvature.sweep import Estimate, SweepResult

from .output import Output, lasting

SWEPT = ("optimizer", "lr", "weight_decay", "rho", "seed")


def show_result(result: SweepResult, configs: Sequence[RunConfig], output: Output) -> None:
    """How many runs are done, and why others failed; the exit code is 1 if any did."""
    runs = [
        {
            "run": config.id,
            **{name: getattr(config, name) for name in SWEPT},
            "status": result.statuses[config.id],
            "message": result.messages.get(config.id),
        }
        for config in configs
    ]
    output.answer({"folder": str(result.root), "runs": runs})
    counts = Counter(run["status"] for run in runs)
    said = ", ".join(
        f"{counts[name]} {name}" for name in ("done", "diverged", "failed") if counts[name]
    )
    output.lines([f"{len(runs)} runs in {result.root}: {said}"])
    reasons = Counter(run["message"] for run in runs if run["status"] == "failed")
    for message, count in reasons.most_common(5):
        output.say(f"{count} failed: {message}")
    if counts["failed"]:
        output.say("Once the cause is removed, --retry-failed tries them again.")
        raise click.exceptions.Exit(1)


def show_estimate(found: Estimate, configs: Sequence[RunConfig], jobs: int, output: Output) -> None:
    """The grid, what is left of it, and the time that it will take."""
    costs = found.costs
    seconds = (found.training_seconds + found.analysis_seconds) / jobs
    output.answer(
        {
            "runs": [{"run": c.id, **{name: getattr(c, name) for name in SWEPT}} for c in configs],
            "runs_left": found.runs_left,
            "jobs": jobs,
            "seconds": seconds,
            "training_seconds": found.training_seconds,
            "analysis_seconds": found.analysis_seconds,
        }
    )
    output.lines(_grid_lines(configs))
    if costs is None:
        output.lines([f"All {found.runs} runs are done."])
        return
    output.lines(
        [
            f"{found.runs} runs, {found.runs_left} left: {found.trainings} trainings "
            f"({lasting(found.training_seconds)}) and {found.analyses} analyses "
            f"({lasting(found.analysis_seconds)}, or more)",
            f"about {lasting(seconds)} with {jobs} job{'s' * (jobs > 1)}",
            f"Assumed: {costs.steps:,} steps of {costs.parameters:,} parameters, a gradient in "
            f"{costs.gradient:.2g} s as measured just now on {costs.device}; sam and sa-sgd "
            "take two of them a step, sa-sam three; a trace stops after its fewest passes, an "
            "eigenvalue after the usual number of products; jobs don't slow each other down.",
        ]
    )


def _grid_lines(configs: Sequence[RunConfig]) -> list[str]:
    """A line for each optimizer, with what is swept."""
    lines = []
    for name in dict.fromkeys(config.optimizer for config in configs):
        own = [config for config in configs if config.optimizer == name]
        swept = [
            f"{what} {' '.join(f'{value:g}' for value in found)}"
            for what in SWEPT[1:]
            if (found := [v for v in dict.fromkeys(getattr(c, what) for c in own) if v is not None])
        ]
        lines.append(f"{name}: {'; '.join(swept)}")
    return lines
