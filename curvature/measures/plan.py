"""What a measurement will cost, told before it is spent."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from curvature.derivatives.cost import measured
from curvature.derivatives.memory import free_memory
from curvature.empirical_risk.shortage import bound_micro_batch
from curvature.linalg.hutchinson import MIN_PASSES
from curvature.losses import examples_in
from curvature.measures.split_trace import refusal
from curvature.measures.staged_eigmax import staged_refusal
from curvature.operators import RiskOperator

PROBED = 32  # examples on which a product is timed
SPLIT_TRACE = 0.6  # products that the time of a split trace is worth where tr(H − G) is 0
LANCZOS_PRODUCTS = 12  # what an eigenvalue of a network typically takes to 1e-3
PEAK = 1.5  # of what autograd keeps for a product, that it takes while it goes on
FREE = 0.5  # of the free memory is for the work, where no limit was given
AT_ONCE = 0.25  # of a limit that not all graphs fit in, that one micro-batch's may take
STAGED_PRODUCTS = 4  # the same by way of drawn examples, products with these counted in


@dataclass(frozen=True)
class Plan:
    """Sizes, the time of one product with H, and how many are expected."""

    parameters: int
    examples: int
    batches: int
    product_seconds: float
    memory_bytes: int
    products: int
    trace_products: float
    trace_passes: int
    cut_to: int | None = None  # examples at a time, where more would not fit

    def __str__(self) -> str:
        parts = [
            f"{self.parameters:,} parameters, {self.examples:,} examples in {self.batches} "
            f"batch{'es' if self.batches != 1 else ''}",
            f"a product with H takes about {duration(self.product_seconds)} and "
            f"{size(self.memory_bytes)} of memory"
            + (f", {self.cut_to} examples at a time" if self.cut_to else ""),
        ]
        if self.products:
            seconds = self.products * self.product_seconds
            parts.append(f"eigenvalues about {self.products} products ({duration(seconds)})")
        if self.trace_products:
            seconds = self.trace_products * self.product_seconds
            passes = f"{self.trace_passes} pass{'es' if self.trace_passes > 1 else ''}"
            parts.append(f"trace at least {passes} ({duration(seconds)})")
        return "; ".join(parts) + "."


def plan(
    H: RiskOperator,
    *,
    trace: bool,
    eigenvalues: int,
    by_parts: bool = True,
    staged: int = 0,
) -> Plan:
    """Time a product on a few examples, and count what autograd keeps for it.

    Has fewer examples at a time where a micro-batch would not fit: in the operator's ``memory``,
    else in half of what is free. ``by_parts``: the trace is split, where it can be. ``staged``: how
    many of the ``eigenvalues`` are found by way of drawn examples, where that can be.
    """
    risk = H.risk
    batch = next(iter(risk.batches))
    few = risk.few(batch, PROBED)
    examples = examples_in(few[1] if isinstance(few, tuple) else few)
    term = H.term(few)
    v = torch.ones(risk.size, dtype=risk.dtype, device=risk.device)
    measured(lambda: term @ v)  # the first call warms up
    cost = measured(lambda: term @ v)
    split = by_parts and not refusal(H)
    staged = 0 if staged and staged_refusal(H) else staged
    each = cost.saved_bytes / max(examples, 1)
    cut_to = _made_to_fit(H, each)
    kept = min(H.budget, each * risk.survey.examples) * bool(eigenvalues)
    vectors = (4 + 2 * LANCZOS_PRODUCTS * bool(eigenvalues)) * risk.size * v.element_size()
    return Plan(
        parameters=risk.size,
        examples=risk.survey.examples,
        batches=len(risk.batches),
        product_seconds=cost.seconds * risk.survey.examples / max(examples, 1),
        memory_bytes=int(max(PEAK * each * risk.largest_part, kept + H.reserved) + vectors),
        products=LANCZOS_PRODUCTS * (eigenvalues - staged) + STAGED_PRODUCTS * staged,
        trace_products=(SPLIT_TRACE if split else MIN_PASSES) * trace,
        trace_passes=1 if split else MIN_PASSES,
        cut_to=cut_to,
    )


def _made_to_fit(H: RiskOperator, each: float) -> int | None:
    """Bound the micro-batch, and leave its share to it where graphs are kept beside it."""
    risk = H.risk
    limit = FREE * free_memory(H.device) if H.memory is None else H.memory
    if each * risk.survey.examples <= limit:
        return None
    before, most = risk.largest_part, max(1, int(AT_ONCE * limit / (PEAK * each)))
    cut = most < before and bound_micro_batch(risk, most)
    H.reserved = PEAK * each * risk.largest_part
    return risk.largest_part if cut else None


def duration(seconds: float) -> str:
    """0.42 s, 12 s, 3 min, 2.5 h."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """12 MB, 3.4 GB."""
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
