"""Tr(H), the sum of the Hessian's eigenvalues."""

from __future__ import annotations

from collections.abc import Callable

import torch

from curvature.linalg import LinearOperator, TraceEstimate, hutchinson_trace


def trace(
    A: LinearOperator,
    *,
    rtol: float = 0.01,
    max_passes: int = 1000,
    generator: torch.Generator | None = None,
    report: Callable[[TraceEstimate], object] | None = None,
) -> TraceEstimate:
    """Estimate tr(A) by Hutchinson's probes, independent for each batch of a Hessian.

    Stops at the relative standard error ``rtol``. Without a ``generator``, one seeded with 0.
    """
    generator = generator or torch.Generator().manual_seed(0)
    return hutchinson_trace(A, generator=generator, rtol=rtol, max_passes=max_passes, report=report)
