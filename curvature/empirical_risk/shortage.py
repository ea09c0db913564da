"""What is done where memory runs out, or would: fewer examples at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from curvature.derivatives.memory import is_out_of_memory
from curvature.empirical_risk.batches import can_be_cut
from curvature.empirical_risk.checks import ALIKE, all_close, check_independent
from curvature.empirical_risk.outputs import logits_in
from curvature.empirical_risk.risk import EmpiricalRisk

Result = TypeVar("Result")


def within_memory(risk: EmpiricalRisk, call: Callable[[], Result]) -> Result:
    """``call()``, made again with half the examples at a time while memory runs out."""
    while True:
        try:
            return call()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            shortage = error.with_traceback(None)  # whose frames hold what is to be freed
        if not halve_micro_batch(risk):
            raise shortage


def halve_micro_batch(risk: EmpiricalRisk, seen: int | None = None) -> bool:
    """Halve the examples in memory and say so; False where that would change the numbers.

    ``seen``: how many there were, where these are fewer than a micro-batch.
    """
    n = min(seen or risk.largest_part, risk.largest_part)
    if n < 2 or not bound_micro_batch(risk, n // 2):
        return False
    if risk.device.type == "cuda":
        torch.cuda.empty_cache()
    note = f"out of memory: went on with {risk.micro_batch} examples at a time instead of {n}"
    risk.notes += (note,)
    warnings.warn(f"{note}. Give `micro_batch` to begin with that.", RuntimeWarning, stacklevel=2)
    return True


def bound_micro_batch(risk: EmpiricalRisk, most: int) -> bool:
    """Have at most so many examples in memory; False where that would change the numbers."""
    batch = next(iter(risk.batches))
    if risk.loss is None or risk.mode == "train" or not can_be_cut(batch):
        return False
    before, as_a_whole = risk.micro_batch, risk.survey.outputs
    try:
        with risk.evaluating():  # a single batch needn't have been one that can be cut
            check_independent(risk.model, risk.few(batch), risk.pick)
            risk.micro_batch = min(most, risk.largest_part)
            alike = as_a_whole is None or _gives(risk, as_a_whole)
    except ValueError:
        alike = False
    if not alike:
        risk.micro_batch = before
    return alike


def _gives(risk: EmpiricalRisk, as_a_whole: Sequence[Tensor]) -> bool:
    """Whether the parts of all batches give these outputs of the batches.

    An example's outputs may hang on its batch, as where sequences are cut to the longest.
    """
    for batch, outputs in zip(risk.batches, as_a_whole, strict=True):
        with torch.no_grad():
            parts = [logits_in(risk.predictions(part)) for part in risk.parts(batch)]
        f = [part for part in parts if part is not None]
        if len(f) < len(parts) or not all_close([torch.cat(f)], [outputs], ALIKE):
            return False
    return True
