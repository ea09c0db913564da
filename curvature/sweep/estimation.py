"""What a sweep will cost, from one gradient and a few products on this machine as it is now."""

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from curvature.runs.config import AnalysisConfig, RunConfig
from curvature.sweep.local import LocalExecutor
from curvature.sweep.work import Costs, Work, check, measure, on_disk, works_of


@dataclass(frozen=True)
class Estimate:
    """What is left of a sweep, and the seconds that it is expected to take one process."""

    runs: int
    runs_left: int
    trainings: int
    training_seconds: float
    analyses: int
    analysis_seconds: float
    costs: Costs | None


def estimate(
    configs: Iterable[RunConfig],
    root: str | os.PathLike[str] = "sweep",
    *,
    analyses: Sequence[AnalysisConfig] = (),
    evaluate_on: Sequence[str] = ("val", "test"),
    executor: Any = None,
    threads: int = 1,
    device: str = "auto",
    retry_failed: bool = False,
) -> Estimate:
    """Measure one gradient and a few products in a process as the sweep's; nothing is trained."""
    works = works_of(configs, root, analyses, evaluate_on, device)
    left = [work for work in works if _is_left(work, retry_failed)]
    costs = None
    if left:
        with ExitStack() as stack:
            if executor is None:
                executor = stack.enter_context(LocalExecutor(1, threads=threads))
            executor.submit(check, left).result()
            costs = executor.submit(measure, left).result()
    trainings = [work for work in left if work.analysis is None]
    measurements = [work for work in left if work.analysis is not None]
    return Estimate(
        runs=len({work.config.id for work in works}),
        runs_left=len({work.config.id for work in left}),
        trainings=len(trainings),
        training_seconds=sum(costs.of(work) for work in trainings) if costs else 0.0,
        analyses=len(measurements),
        analysis_seconds=sum(costs.of(work) for work in measurements) if costs else 0.0,
        costs=costs,
    )


def _is_left(work: Work, retry_failed: bool) -> bool:
    there = on_disk(work)
    return there is None or (there.status == "failed" and retry_failed)
