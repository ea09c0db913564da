"""What one forward pass over all batches tells."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from curvature.display import Shown

if TYPE_CHECKING:
    from curvature.empirical_risk.risk import EmpiricalRisk


@dataclass(frozen=True, repr=False)
class Survey(Shown):
    """L(w), Σω and the number of examples."""

    _brief = ("weight", "examples")

    value: float
    weight: float
    examples: int


def go_over_all(risk: EmpiricalRisk) -> Survey:
    """One forward pass over all batches; refuses what would make the numbers wrong."""
    total, weight, count = 0.0, 0.0, 0
    # a whole loss may differentiate by its inputs (physics-informed networks)
    with risk.evaluating(), torch.set_grad_enabled(risk.loss is None):
        for index, batch in enumerate(risk.batches):
            if index == 0:
                risk.check(batch)
            for part in risk.parts(batch):
                part_sum, part_weight = risk.sum_and_weight(part)
                total += float(part_sum.detach())
                weight += float(part_weight)
                count += risk.examples_in(part)
    if not weight > 0:
        raise ValueError("No example counts: the weights of all batches are zero.")
    value = total if risk.reduction == "sum" else total / weight
    if not math.isfinite(value):
        raise FloatingPointError(f"The loss is {value} at these weights: the run diverged.")
    return Survey(value, weight, count)
