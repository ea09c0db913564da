"""Graphs of gradients, kept for many products with the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from curvature.derivatives.cost import Saved
from curvature.derivatives.products import Product
from curvature.empirical_risk import EmpiricalRisk


class Graphs:
    """The first micro-batches' graphs, as many as ``budget`` bytes hold; the rest is rebuilt."""

    def __init__(
        self, risk: EmpiricalRisk, linearized: Callable[[Any], Product], budget: float
    ) -> None:
        self._risk, self._linearized, self._budget = risk, linearized, budget
        self._kept: list[Product] = []
        self._parts: int | None = None  # known after the first pass
        self._saved = Saved(risk.leaves)
        self._versions = risk.versions()

    @property
    def description(self) -> str:
        """What to add to the name of the way in which products are formed."""
        if not self._kept or self._parts is None:
            return ""
        if len(self._kept) == self._parts:
            return ", graph kept"
        return f", graph kept of {len(self._kept)} of {self._parts} micro-batches"

    def products(self, v: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """Each micro-batch's product with ``v``; inside the risk's ``evaluating``."""
        if self._risk.versions() != self._versions:
            raise RuntimeError(
                "Weights or running statistics were changed while their gradient's graph was kept. "
                "End the `with H.linearized()` before a step, and enter it anew."
            )
        for apply in self._kept:
            yield apply(v, keep=True)
        if self._parts == len(self._kept):
            return
        first = self._parts is None
        index = -1
        for index, part in enumerate(self._risk.all_parts()):
            if index < len(self._kept) and not first:
                continue
            if first and len(self._kept) == index and self._saved.bytes < self._budget:
                yield self._built(part)(v, keep=len(self._kept) > index)
            else:
                yield self._linearized(part)(v)
        self._parts = index + 1

    def free(self) -> None:
        """Give the memory back."""
        self._kept.clear()
        self._saved.clear()
        self._parts = None

    def give_up(self) -> bool:
        """Keep nothing any more; False where nothing was kept."""
        held = self._budget > 0
        self.free()
        self._budget = 0
        return held

    def _built(self, part: Any) -> Product:
        """The graph of a new part, kept if it is within the budget."""
        with self._saved.counting():
            apply = self._linearized(part)
        if self._saved.bytes <= self._budget:
            self._kept.append(apply)
        return apply
