"""A matrix known by its products that remembers the empirical risk it belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from curvature.derivatives.cost import free_memory
from curvature.empirical_risk import EmpiricalRisk
from curvature.linalg import LinearOperator
from curvature.operators.graphs import Graphs
from curvature.operators.kinds import Kind, product

SHARE = 0.25  # of the free memory that kept graphs may take


class RiskOperator(LinearOperator):
    """A `LinearOperator` that remembers its risk, and how its products are formed."""

    def __init__(self, risk: EmpiricalRisk, kind: Kind, *, diagonal: float = 0.0) -> None:
        self.risk = risk
        self.kind = kind
        self.diagonal = diagonal  # the weight decay that is counted in
        self.method = "double backward"
        super().__init__(
            self._over_all_batches,
            risk.size,
            dtype=risk.dtype,
            device=risk.device,
            terms=_Terms(self),
        )

    def term(self, batch: Any) -> LinearOperator:
        """One batch's share of the whole: its weight is inside."""
        return LinearOperator(
            lambda v: self._of_one_batch(batch, v), self.size, dtype=self.dtype, device=self.device
        )

    @contextmanager
    def linearized(self, *, memory: float | None = None) -> Iterator[LinearOperator]:
        """The same operator for many products with the same weights, in the length of a ``with``.

        Micro-batches keep their gradient's graph while ``memory`` bytes last (by default a quarter
        of what is free), so that a product costs the second backward pass alone; the others build
        it anew for each product.
        """
        budget = SHARE * free_memory(self.device) if memory is None else memory
        graphs = Graphs(self.risk, self.kind, budget)

        def matvec(v: Tensor) -> Tensor:
            with self.risk.evaluating():
                return self._scaled(graphs.products(self.risk.split(v.detach())), v, self.diagonal)

        plain = self.method
        try:
            yield LinearOperator(matvec, self.size, dtype=self.dtype, device=self.device)
        finally:
            self.method = f"{plain}{graphs.description}"
            graphs.free()

    def _over_all_batches(self, v: Tensor) -> Tensor:
        with self.risk.evaluating():
            return self._product(self.risk.all_parts(), v, self.diagonal)

    def _of_one_batch(self, batch: Any, v: Tensor) -> Tensor:
        with self.risk.evaluating():
            return self._product(self.risk.parts(batch), v, self.diagonal / len(self.risk.batches))

    def _product(self, parts: Iterator[Any], v: Tensor, diagonal: float) -> Tensor:
        vectors = self.risk.split(v.detach())
        return self._scaled(
            (product(self.kind, self.risk, part, vectors) for part in parts), v, diagonal
        )

    def _scaled(self, products: Iterator[list[Tensor]], v: Tensor, diagonal: float) -> Tensor:
        total = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        for each in products:
            total += self.risk.flatten(each)
        return total.mul_(self.risk.scale).add_(v.detach(), alpha=diagonal)


class _Terms(Sequence[LinearOperator]):
    """One operator per batch, made as the batches are gone over."""

    def __init__(self, whole: RiskOperator) -> None:
        self._whole = whole

    def __len__(self) -> int:
        return len(self._whole.risk.batches)

    def __iter__(self) -> Iterator[LinearOperator]:
        for batch in self._whole.risk.batches:
            yield self._whole.term(batch)

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]
