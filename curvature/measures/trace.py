"""Tr(H), the sum of the Hessian's eigenvalues: split as tr(G) + tr(H − G) where that is cheaper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch

from curvature.linalg import LinearOperator, TraceEstimate, hutchinson_trace
from curvature.linalg.operator import require_operator
from curvature.measures.measured_trace import MeasuredTrace
from curvature.measures.split_trace import exact_trace, refusal, split_trace
from curvature.operators import RiskOperator

Method = Literal["auto", "split", "hutchinson", "exact"]


def trace(
    A: LinearOperator,
    *,
    method: Method = "auto",
    rtol: float = 0.01,
    max_passes: int = 1000,
    generator: torch.Generator | None = None,
    report: Callable[[MeasuredTrace], object] | None = None,
) -> MeasuredTrace:
    """Estimate tr(A) to the relative standard error ``rtol``.

    ``auto`` splits where A is a Hessian, Gauss–Newton or functional Hessian whose loss allows it,
    and else uses Hutchinson's probes; ``exact``: tr(G) from all outputs. Seed 0 by default.
    """
    if method not in get_args(Method):
        raise ValueError(f"`method` is one of {', '.join(get_args(Method))}, not `{method}`.")
    require_operator(A)
    if rtol < 0 or max_passes < 2:
        raise ValueError(f"Expected `rtol` ≥ 0 and `max_passes` ≥ 2, got {rtol} and {max_passes}.")
    generator = generator or torch.Generator().manual_seed(0)
    why_not = "" if method == "hutchinson" else refusal(A)
    if method in ("split", "exact") and why_not:
        raise ValueError(
            f"The trace can't be split: {why_not} Use Hutchinson's probes: "
            '`method="hutchinson"`, or `--trace-method hutchinson`.'
        )
    if method != "hutchinson" and not why_not:
        assert isinstance(A, RiskOperator)
        estimate = exact_trace if method == "exact" else split_trace
        return estimate(A, rtol=rtol, max_passes=max_passes, generator=generator, report=report)

    def told(interim: TraceEstimate) -> None:
        if report is not None:
            report(_by_probes(interim))

    return _by_probes(
        hutchinson_trace(
            A,
            generator=generator,
            rtol=rtol,
            max_passes=max_passes,
            min_passes=min(8, max_passes),
            report=told,
        )
    )


def _by_probes(found: TraceEstimate) -> MeasuredTrace:
    return MeasuredTrace(
        found.value,
        found.standard_error,
        passes=found.passes,
        degrees=found.passes - 1,
        converged=found.converged,
        method="hutchinson",
    )
