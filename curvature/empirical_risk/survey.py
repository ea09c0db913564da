"""What one forward pass over all batches tells."""

from __future__ import annotations

import math
from collections import deque
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


def go_over_all(
    risk: EmpiricalRisk, *, attached: bool = False, outputs: Outputs | None = None
) -> Survey:
    """One pass over all batches; refuses what would make the numbers wrong.

    A forward one, as far as the ``outputs`` aren't known. ``attached``: that the loss depends on
    the parameters is known.
    """
    total, weight, count = 0.0, 0.0, 0
    kept, seen = list[Tensor | None](), Outputs()
    # a whole loss may differentiate by its inputs (physics-informed networks)
    with risk.evaluating(), torch.set_grad_enabled(risk.loss is None):
        for batch in risk.batches:
            attached = attached or (risk.loss is not None and is_attached(risk, batch))
            size, first = risk.examples_in(batch), 0
            known = outputs.take(size) if outputs else None
            for part in risk.parts(batch):
                n = risk.examples_in(part)
                f = None if known is None else known[first : first + n]
                part_sum, part_weight, predictions = risk.sum_and_weight(part, f)
                total += float(part_sum.detach())
                weight += float(part_weight)
                attached = attached or part_sum.requires_grad
                first += n
                if known is None:
                    seen.add(logits_in(predictions), n)
            count += size
            kept.append(seen.take(size) if known is None else known)
    if not weight > 0:
        raise ValueError("No example counts: the weights of all batches are zero.")
    if not attached:
        raise ValueError(
            "The loss doesn't depend on the parameters: `detach`, `no_grad`, `argmax` or NumPy "
            "stands between them, so all curvature would be zero. Take that out of the model or "
            "the loss."
        )
    value = total if risk.reduction == "sum" else total / weight
    refuse_infinite(value)
    there = tuple(f for f in kept if f is not None)
    return Survey(value, weight, count, there if len(there) == len(kept) else None)


def refuse_infinite(loss: float) -> None:
    """A FloatingPointError if it is."""
    if not math.isfinite(loss):
        raise FloatingPointError(f"The loss is {loss} at these weights: the run diverged.")


class Outputs:
    """Those of all examples in order, as they are seen; none any more where that is too much."""

    def __init__(self) -> None:
        self._pieces: deque[Tensor] | None = deque()
        self._left = KEPT

    def add(self, f: Tensor | None, examples: int) -> None:
        """The next examples' outputs, (examples, …)."""
        self._left -= f.numel() if f is not None and f.ndim and len(f) == examples else KEPT + 1
        if f is None or self._left < 0:
            self._pieces = None
        elif self._pieces is not None:
            # a copy: the last of a sequence's logits, say, would hold on to all of them
            self._pieces.append(f.detach().clone())

    def take(self, examples: int) -> Tensor | None:
        """Those of the next batch, (examples, …); None where they aren't known, or of one shape."""
        found: list[Tensor] = []
        while self._pieces and (lacking := examples - sum(map(len, found))):
            piece = self._pieces.popleft()
            found.append(piece[:lacking])
            if len(piece) > lacking:
                self._pieces.appendleft(piece[lacking:])
        if len({f.shape[1:] for f in found}) != 1 or sum(map(len, found)) < examples:
            return None
        return found[0] if len(found) == 1 else torch.cat(found)


def is_attached(risk: EmpiricalRisk, batch: Any) -> bool:
    """Whether the loss has a graph to any parameter, on very few examples; all may be padding."""
    with torch.enable_grad():
        few = (risk.few(batch, min(n, risk.micro_batch or n)) for n in (2, 16))
        return any(risk.loss_sum(part).requires_grad for part in few)
