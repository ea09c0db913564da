"""Before a sweep: refuse what can't work, and measure what it will cost."""

import time
from collections.abc import Sequence
from dataclasses import replace

from curvature.analysis import load_subject, operator_of, plan_of
from curvature.devices import resolve_device
from curvature.runs.checkpoint import Checkpoint
from curvature.runs.folder import part_name
from curvature.sweep.work import Costs, Work
from curvature.training.results import parts_to_evaluate
from curvature.training.state import tensors
from curvature.training.task import Task, build

FORWARD = 1 / 3  # of a gradient


def check(works: Sequence[Work]) -> tuple[str, ...]:
    """Build one task of every kind and take the data of every analysis, without training.

    Returns those parts to evaluate on that the data have. Images that are made, as corrupted
    ones, are made here once and not in every process.

    Raises:
        ValueError: for what can't be trained or measured.
    """
    first = works[0]
    device = resolve_device(first.device)
    kinds = dict.fromkeys(
        replace(c, lr=1.0, weight_decay=float(c.weight_decay > 0), seed=0)
        for c in (work.config for work in works)
    )
    tasks = [build(config, device) for config in kinds]
    parts = parts_to_evaluate(tasks[0], first.evaluate_on, lambda line: None)
    start = Checkpoint(tensors(tasks[0]), config=tasks[0].config)
    for analysis in dict.fromkeys(work.analysis for work in works if work.analysis):
        load_subject(start, analysis, trust=True)
    there = {part.name for part in parts}
    return tuple(each for each in first.evaluate_on if part_name(each) in there)


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
    parts = parts_to_evaluate(task, first.evaluate_on, lambda line: None)
    whole_epochs = task.steps // task.steps_per_epoch
    examples = sum(len(part.data) * (1 + whole_epochs * (part.name == "val")) for part in parts)
    start = Checkpoint(tensors(task), config=task.config)
    analyses = {}
    for analysis in dict.fromkeys(work.analysis for work in works if work.analysis):
        begun = time.perf_counter()
        subject = load_subject(start, analysis, trust=True)
        loaded = time.perf_counter() - begun
        plan = plan_of(operator_of(subject, analysis), analysis)
        products = plan.products + plan.trace_products
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
