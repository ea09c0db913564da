"""The examples that share a probe: a variance that falls as they get fewer, a cost that rises.

A probe moves every weight once, and every example uses each weight as often as it has positions:
so the more positions, the fewer examples outweigh the moving.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor
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


def alike(
    units: list[list[list[int]]], residuals: Tensor, together: int
) -> tuple[list[list[list[int]]], Tensor]:
    """The rows of every ``together`` units of a batch sorted by their residual, and cut as before.

    ``residuals`` are those of all examples in order. Also the group that each unit is of.
    """
    found: list[list[list[int]]] = []
    groups: list[int] = []
    left = residuals
    for batch in units:
        n = sum(map(len, batch))
        own, left = left[:n].tolist(), left[n:]
        new = []
        for few in (batch[i : i + together] for i in range(0, len(batch), together)):
            rows = iter(sorted((row for unit in few for row in unit), key=own.__getitem__))
            new += [list(islice(rows, len(unit))) for unit in few]
            groups += [groups[-1] + 1 if groups else 0] * len(few)
        found.append(new)
    return found, torch.tensor(groups)


def sizes(units: list[list[list[int]]]) -> list[int]:
    """How many examples each unit holds, in order."""
    return [len(rows) for batch in units for rows in batch]
