"""What can't work is refused before hours are spent on it."""

from collections.abc import Sequence
from dataclasses import replace

from curvature.analysis import load_subject
from curvature.devices import resolve_device
from curvature.runs.checkpoint import Checkpoint
from curvature.sweep.work import Work
from curvature.training.results import part_name, parts_to_evaluate
from curvature.training.state import tensors
from curvature.training.task import build


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
    parts = parts_to_evaluate(first.config, first.evaluate_on, device, lambda line: None)
    start = Checkpoint(tensors(tasks[0]), config=tasks[0].config)
    for analysis in dict.fromkeys(work.analysis for work in works if work.analysis):
        load_subject(start, analysis)
    there = {part.name for part in parts}
    return tuple(each for each in first.evaluate_on if part_name(each) in there)
