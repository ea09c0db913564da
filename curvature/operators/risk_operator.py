"""A matrix known by its products that remembers the empirical risk it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor

from curvature.derivatives.memory import free_memory, is_out_of_memory
from curvature.derivatives.products import Product
from curvature.display import html_table, text
from curvature.empirical_risk import EmpiricalRisk
from curvature.empirical_risk.described import in_a_line
from curvature.empirical_risk.shortage import (
    bound_micro_batch,
    halve_micro_batch,
    within_memory,
)
from curvature.linalg import LinearOperator
from curvature.operators.differences import Differences
from curvature.operators.graphs import Graphs
from curvature.operators.kinds import Kind, linearized
from curvature.operators.ways import PLAIN, Way, fastest

SHARE = 0.25  # of the free memory that kept graphs may take
LEAST_HALF = (32, 2**24)  # examples, and bytes of their graph: with fewer, calls cost more

_KINDS: dict[Kind, str] = {
    "hessian": "Hessian H",
    "ggn": "Gauss–Newton matrix G",
    "functional_hessian": "Functional Hessian H−G",
}
_Products = Callable[[list[Tensor]], Iterator[list[Tensor]]]  # of each micro-batch


class RiskOperator(LinearOperator):
    """A `LinearOperator` that remembers its risk, and how its products are formed."""

    def __init__(
        self,
        risk: EmpiricalRisk,
        kind: Kind,
        *,
        diagonal: float = 0.0,
        memory: float | None = None,
        plain: bool = False,
        differences: Differences | None = None,
    ) -> None:
        self.risk = risk
        self.kind = kind
        self.diagonal = diagonal  # the weight decay that is counted in
        self.memory = memory  # bytes that graphs may take; None: a share of what is free
        self.differences = differences  # in place of autograd twice
        self.reserved = 0.0  # of memory, for the micro-batch at work beside those that are kept
        chosen = PLAIN if plain or differences else None
        self.way: Way | None = chosen  # None: the first product chooses one
        self.method = PLAIN.name  # of the last product
        super().__init__(
            self._over_all_batches,
            risk.size,
            dtype=risk.dtype,
            device=risk.device,
            terms=_Terms(self),
        )

    def __repr__(self) -> str:
        what = in_a_line(self.risk.described)
        return f"{_KINDS[self.kind]}, {self.size:,} × {self.size:,}: {what}"

    def _repr_html_(self) -> str:
        about = {"matrix": f"{self.size:,} × {self.size:,}", **self.risk.described}
        if self.diagonal:
            about["weight decay counted in"] = text(self.diagonal)
        return html_table(_KINDS[self.kind], {**about, "products": self.method})

    @property
    def budget(self) -> float:
        """Bytes that kept graphs may take."""
        if self.memory is None:
            return SHARE * free_memory(self.device)
        return max(self.memory - self.reserved, 0.0)

    def choose_way(self) -> Way:
        """Look for the fastest way once; what the first product does by itself."""
        if self.way is None:
            self.way = within_memory(self.risk, self._fastest)
            self._take_halves(self.way.held)
        return self.way

    def _fastest(self) -> Way:
        with self.risk.evaluating():
            return fastest(self.risk, self.kind)

    def _take_halves(self, held: float) -> None:
        """Have half the examples in memory, where a processor is as fast by that.

        A product's graph holds about twice what a gradient's does. ``held``: bytes per example.
        """
        half = -(-self.risk.largest_part // 2)
        enough = half >= LEAST_HALF[0] and half * held >= LEAST_HALF[1]
        if enough and self.device.type == "cpu" and self.risk.micro_batch is None:
            bound_micro_batch(self.risk, half)

    def term(self, batch: Any) -> LinearOperator:
        """One batch's share of the whole: its weight is inside."""
        return LinearOperator(
            lambda v: self._of_one_batch(batch, v), self.size, dtype=self.dtype, device=self.device
        )

    @contextmanager
    def linearized(self) -> Iterator[LinearOperator]:
        """The same operator for many products with the same weights, in the length of a ``with``.

        Micro-batches keep their gradient's graph while ``memory`` bytes last (by default a quarter
        of what is free), so that a product costs the second backward pass alone; the others build
        it anew for each product.
        """
        if self.differences is not None:
            yield self
            return
        graphs = Graphs(self.risk, self._linearized, self.budget)

        def matvec(v: Tensor) -> Tensor:
            product = self._product(graphs.products, v, self.diagonal, give_up=graphs.give_up)
            self.method += graphs.description
            return product

        try:
            yield LinearOperator(matvec, self.size, dtype=self.dtype, device=self.device)
        finally:
            graphs.free()

    def _over_all_batches(self, v: Tensor) -> Tensor:
        return self._product(partial(self._each, self.risk.all_parts), v, self.diagonal)

    def _of_one_batch(self, batch: Any, v: Tensor) -> Tensor:
        parts = partial(self.risk.parts, batch)
        return self._product(partial(self._each, parts), v, self.diagonal / len(self.risk.batches))

    def _product(
        self,
        products: _Products,
        v: Tensor,
        diagonal: float,
        *,
        give_up: Callable[[], bool] = lambda: False,
    ) -> Tensor:
        """Scaled sum of the micro-batches' ``products`` with v, formed in the fastest way.

        ``give_up`` frees what is kept and keeps no more; False where that is nothing.
        """
        v = v.detach()
        scale = self.risk.scale  # after the survey's refusals
        self.choose_way()
        with self.risk.evaluating():
            while (total := self._attempt(products, v, give_up)) is None:
                pass
        self.method = self.differences.description if self.differences else self.choose_way().name
        return total.mul_(scale).add_(v, alpha=diagonal)

    def _attempt(
        self, products: _Products, v: Tensor, give_up: Callable[[], bool]
    ) -> Tensor | None:
        """The sum, or None where it is to be tried again: plainly, or with less memory."""
        shortage: RuntimeError | None = None
        try:
            return self._sum(products, v)
        except Exception as error:
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                shortage = error.with_traceback(None)  # whose frames hold what is to be freed
            elif self.way == PLAIN:
                raise
            else:  # which a rare branch may do that wasn't seen when the way was chosen
                self.way = PLAIN
        if not give_up() and shortage is not None and not halve_micro_batch(self.risk):
            raise shortage
        return None

    def _sum(self, products: _Products, v: Tensor) -> Tensor:
        assert self.way is not None
        total: Tensor | None = None  # made after the first product: its peak is without it
        with self.way.taken():
            for each in products(self.risk.split(v)):
                flat = self.risk.flatten(each)
                total = flat if total is None else total.add_(flat)
        assert total is not None
        return total

    def _each(self, parts: Callable[[], Iterator[Any]], v: list[Tensor]) -> Iterator[list[Tensor]]:
        if self.differences is not None:
            yield self.differences.product(parts, v)
            return
        for part in parts():
            yield self._linearized(part)(v)

    def _linearized(self, part: Any) -> Product:
        assert self.way is not None
        return linearized(self.kind, self.risk, self.way.part(part))


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
