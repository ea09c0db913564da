"""The examples that share a probe: a variance that falls as they get fewer, a cost that rises.

A probe moves every weight once, and every example uses each weight as often as it has positions:
so the more positions, the fewer examples outweigh the moving.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from curvature.empirical_risk import EmpiricalRisk

_LEAST, _MOST = 16, 128
_USES = 1024  # of a weight, that moving it is small against


def examples_in_one(risk: EmpiricalRisk) -> int:
    """A power of two of examples that use the average weight often enough."""
    few = risk.few(next(iter(risk.batches)), 1)
    with risk.evaluating(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        risk.outputs(few)
    uses = counter.get_total_flops() / 2 / risk.size
    size = _LEAST
    while size < _MOST and size * uses < _USES:
        size *= 2
    return size


def cut(batches: Sequence[int], at_once: int) -> list[list[list[int]]]:
    """Of every batch: the rows of each of its units."""
    return [
        [list(range(i, min(i + at_once, n))) for i in range(0, n, max(1, at_once))] for n in batches
    ]


def sizes(units: list[list[list[int]]]) -> list[int]:
    """How many examples each unit holds, in order."""
    return [len(rows) for batch in units for rows in batch]
