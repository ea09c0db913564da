"""What one forward pass over all batches tells."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from curvature.display import Shown
from curvature.empirical_risk.outputs import logits_in

if TYPE_CHECKING:
    from curvature.empirical_risk.risk import EmpiricalRisk

KEPT = 2**24  # numbers that kept outputs may have


@dataclass(frozen=True, repr=False)
class Survey(Shown):
    """L(w), Σω and the number of examples; each batch's ``outputs``, if these are not too many.

    They save who needs them another pass.
    """

    _brief = ("weight", "examples")

    value: float
    weight: float
    examples: int
    outputs: tuple[Tensor, ...] | None = field(default=None, repr=False, compare=False)


class Tally:
    """Σ_i ω_i ℓ_i and Σ_i ω_i of the examples that were seen."""

    def __init__(self) -> None:
        self._total = self.weight = 0.0

    def add(self, loss_sum: Tensor, weight: Tensor) -> None:
        """Those of some more."""
        self._total += float(loss_sum.detach())
        self.weight += float(weight)

    def loss(self, reduction: str) -> float:
        """L(w) of all of them; refuses none that counts, and a value that isn't finite."""
        if not self.weight > 0:
            raise ValueError("No example counts: the weights of all batches are zero.")
        value = self._total if reduction == "sum" else self._total / self.weight
        if not math.isfinite(value):
            raise FloatingPointError(f"The loss is {value} at these weights: the run diverged.")
        return value


def go_over_all(risk: EmpiricalRisk, *, attached: bool) -> Survey:
    """One forward pass over all batches; refuses what would make the numbers wrong.

    ``attached``: it is known already that the loss depends on the parameters.
    """
    tally, count, outputs = Tally(), 0, _Outputs()
    # a whole loss may differentiate by its inputs (physics-informed networks)
    with risk.evaluating(), torch.set_grad_enabled(risk.loss is None):
        for batch in risk.batches:
            attached = attached or (risk.loss is not None and is_attached(risk, batch))
            for part in risk.parts(batch):
                part_sum, part_weight, predictions = risk.sum_and_weight(part)
                tally.add(part_sum, part_weight)
                attached = attached or part_sum.requires_grad
                n = risk.examples_in(part)
                count += n
                outputs.add(predictions, n)
            outputs.end_batch()
    if tally.weight > 0 and not attached:
        raise ValueError(
            "The loss doesn't depend on the parameters: `detach`, `no_grad`, `argmax` or NumPy "
            "stands between them, so all curvature would be zero. Take that out of the model or "
            "the loss."
        )
    return Survey(tally.loss(risk.reduction), tally.weight, count, outputs.all)


class _Outputs:
    """What the survey has seen of the outputs; nothing any more where that is too much."""

    def __init__(self) -> None:
        self.all: tuple[Tensor, ...] | None = ()
        self._parts: list[Tensor] = []
        self._left = KEPT

    def add(self, predictions: Any, examples: int) -> None:
        f = logits_in(predictions)
        first = self._parts[0] if self._parts else f
        if f is None or first is None or f.shape != (examples, *first.shape[1:]):
            self._left = -1
        else:
            self._left -= f.numel()
            # a copy: the last of a sequence's logits, say, would hold on to all of them
            self._parts.append(f.detach().clone())
        if self._left < 0:
            self.all, self._parts = None, []

    def end_batch(self) -> None:
        if self.all is not None:
            self.all += (self._parts[0] if len(self._parts) == 1 else torch.cat(self._parts),)
            self._parts = []


def is_attached(risk: EmpiricalRisk, batch: Any) -> bool:
    """Whether the loss has a graph to any parameter, on very few examples; all may be padding."""
    with torch.enable_grad():
        few = (risk.few(batch, min(n, risk.micro_batch or n)) for n in (2, 16))
        return any(risk.loss_sum(part).requires_grad for part in few)
