"""What is done where memory ran out: fewer examples at a time."""

from __future__ import annotations

import warnings

import torch

from curvature.empirical_risk.batches import can_be_cut
from curvature.empirical_risk.risk import EmpiricalRisk


def halve_micro_batch(risk: EmpiricalRisk) -> bool:
    """Halve the examples in memory and say so; False where that would change the numbers."""
    before, n = risk.micro_batch, risk.largest_part
    batch = next(iter(risk.batches))
    if risk.loss is None or risk.mode == "train" or n < 2 or not can_be_cut(batch):
        return False
    risk.micro_batch = n // 2
    try:
        with risk.evaluating():
            risk.check(batch)  # a single batch needn't have been one that can be cut
    except ValueError:
        risk.micro_batch = before
        return False
    if risk.device.type == "cuda":
        torch.cuda.empty_cache()
    note = f"out of memory: went on with {risk.micro_batch} examples at a time instead of {n}"
    risk.notes += (note,)
    warnings.warn(f"{note}. Give `micro_batch` to begin with that.", RuntimeWarning, stacklevel=2)
    return True
