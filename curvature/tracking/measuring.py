"""One measurement at the present weights, within a budget of products, as rows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from curvature.measures.eigmax import eigmax
from curvature.measures.trace import trace
from curvature.operators import RiskOperator
from curvature.optimizers import Threshold
from curvature.runs.rows import Row, measured_row

METRICS = ("eigmax", "trace")
TRACE_SHARE = 4  # the part of the budget that goes to the trace, where λ_max is measured too


def measured_rows(
    H: RiskOperator,
    metrics: tuple[str, ...],
    *,
    budget: int,
    rtol: float,
    seed: int,
    step: int,
    start: Tensor | None,
) -> tuple[list[Row], Tensor | None]:
    """Rows of λ_max and the trace, and the eigenvector to begin from the next time.

    The trace has the same random numbers at every step, λ_max a new random part.
    """
    rows: list[Row] = []
    left = budget
    if "trace" in metrics:
        most = max(2, budget // TRACE_SHARE if "eigmax" in metrics else budget)
        row = _timed(lambda: _trace(H, most, rtol, torch.Generator().manual_seed(seed)))
        left -= math.ceil(row["passes"])
        rows.append(row)
    if "eigmax" in metrics:
        fresh = torch.Generator().manual_seed((seed + 1 + step) % 2**63)
        found = _timed(lambda: _eigmax(H, max(1, left), rtol, fresh, start))
        start = found.pop("vector")
        rows.insert(0, found)
    return rows, start


def diverged_rows(metrics: tuple[str, ...], message: str) -> list[Row]:
    """Rows without a value, where the loss or a product is not a number."""
    return [measured_row(m, converged=False, status="diverged", message=message) for m in metrics]


def threshold_row(threshold: Threshold) -> Row:
    """The λ_max beyond which the optimizer's steps diverge, to be drawn beside it."""
    return measured_row("stability_threshold", value=threshold.value, method=threshold.formula)


def _trace(H: RiskOperator, most: int, rtol: float, generator: torch.Generator) -> Row:
    found = trace(H, rtol=rtol, max_passes=most, generator=generator)
    return measured_row(
        "trace",
        value=found.value,
        standard_error=found.standard_error,
        sampling_error=found.sampling_error,
        passes=found.passes,
        converged=found.converged,
        method=found.method,
        products=H.method,
        message=None if found.converged else f"stopped after {most} passes, the budget",
    )


def _eigmax(
    H: RiskOperator, most: int, rtol: float, generator: torch.Generator, start: Tensor | None
) -> Row:
    found = eigmax(H, rtol=rtol, max_products=most, start=start, generator=generator)
    begun = "a random vector" if start is None else "the last eigenvector and a random one"
    message = None
    if not found.converged:
        message = f"stopped after {most} products, the budget: a larger one is not ruled out"
    row = measured_row(
        "eigmax",
        value=found.value,
        residual=found.residual,
        passes=found.products,
        converged=found.converged,
        method=f"lanczos from {begun}",
        products=H.method,
        message=message,
    )
    return {**row, "vector": found.vector}


def _timed(measure: Callable[[], Row]) -> Row:
    begun = time.perf_counter()
    row = measure()
    return {**row, "seconds": time.perf_counter() - begun}
