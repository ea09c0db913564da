"""What a sweep will cost, from one gradient and a few products on this machine as it is now."""

import os
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from curvature.analysis import load_subject, plan_of
from curvature.devices import resolve_device
from curvature.runs.checkpoint import Checkpoint
from curvature.runs.config import AnalysisConfig, RunConfig
from curvature.sweep.check import check
from curvature.sweep.local import LocalExecutor
from curvature.sweep.progress import GRADIENTS
from curvature.sweep.work import Work, on_disk, works_of
from curvature.training.results import parts_to_evaluate
from curvature.training.state import tensors
from curvature.training.task import Task, build

FORWARD = 1 / 3  # of a gradient


@dataclass(frozen=True)
class Costs:
    """Seconds of one gradient of a step, of a run's beginning and evaluations, of each analysis."""

    device: str
    parameters: int
    steps: int
    gradient: float
    besides: float
    analyses: dict[str, float]

    def of(self, work: Work) -> float:
        """Seconds that ``work`` is expected to take one process."""
        if work.analysis is not None:
            return self.analyses[work.analysis.id]
        gradients = GRADIENTS.get(work.config.optimizer, 1)
        return self.steps * gradients * self.gradient + self.besides


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


def measure(works: Sequence[Work]) -> Costs:
    """Time the first config's gradient and products; the works differ in what costs the same.

    A trace is expected to take the fewest passes, an eigenvalue the usual number of products.
    """
    first = works[0]
    device = resolve_device(first.device)
    build(first.config, device)  # imports and the file system's cache
    begun = time.perf_counter()
    task = build(first.config, device)
    besides = time.perf_counter() - begun
    gradient = _gradient_seconds(task)
    parts = parts_to_evaluate(first.config, first.evaluate_on, device, lambda line: None)
    whole_epochs = task.steps // task.steps_per_epoch
    examples = sum(len(part.data) * (1 + whole_epochs * (part.name == "val")) for part in parts)
    start = Checkpoint(tensors(task), config=task.config)
    analyses = {}
    for analysis in dict.fromkeys(work.analysis for work in works if work.analysis):
        begun = time.perf_counter()
        subject = load_subject(start, analysis)
        loaded = time.perf_counter() - begun
        plan = plan_of(subject, analysis)
        products = plan.products + plan.trace_passes
        analyses[analysis.id] = loaded + plan.product_seconds * products
    return Costs(
        device=str(device),
        parameters=sum(p.numel() for p in task.model.parameters() if p.requires_grad),
        steps=task.steps,
        gradient=gradient,
        besides=besides + examples / first.config.batch_size * gradient * FORWARD,
        analyses=analyses,
    )


def _gradient_seconds(task: Task) -> float:
    closure = task.closure(task.epoch()[0])
    task.model.train()
    float(closure())  # the first one warms up
    start = time.perf_counter()
    float(closure())
    return time.perf_counter() - start


def _is_left(work: Work, retry_failed: bool) -> bool:
    there = on_disk(work)
    return there is None or (there.status == "failed" and retry_failed)
