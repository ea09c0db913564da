"""Tr(H), the sum of the Hessian's eigenvalues: split as tr(G) + tr(H − G) where that is cheaper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import torch

from curvature.linalg import LinearOperator, TraceEstimate, hutchinson_trace
from curvature.linalg.operator import require_operator
from curvature.measures.measured_trace import MeasuredTrace
from curvature.measures.scaled_operator import scaled_by_weights
from curvature.measures.split_trace import refusal, split_trace
from curvature.operators import RiskOperator

Method = Literal["auto", "split", "hutchinson", "exact"]


def trace(
    A: LinearOperator,
    *,
    method: Method = "auto",
    rtol: float = 0.01,
    max_passes: int = 1000,
    scale_invariant: bool = False,
    blocks: bool = False,
    generator: torch.Generator | None = None,
    report: Callable[[MeasuredTrace], object] | None = None,
) -> MeasuredTrace:
    """Estimate tr(A) to the relative standard error ``rtol``. Seed 0 by default.

    ``auto`` splits where A is a Hessian, Gauss–Newton or functional Hessian whose loss allows it,
    and else uses Hutchinson's probes; ``exact``: tr(G) from all outputs, and tr(H − G) too of up to
    4,096 parameters. ``scale_invariant``: Σ_i w_i² A_ii too. ``blocks``: each tensor's part also
    where tr(H − G) ≠ 0, at the cost of products with H − G.
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
        return split_trace(
            A,
            rtol=rtol,
            max_passes=max_passes,
            generator=generator,
            report=report,
            exact=method == "exact",
            scale_invariant=scale_invariant,
            blocks=blocks,
        )
    if blocks:
        why_not = why_not or "that is asked for."
        raise ValueError(
            f"Hutchinson's probes tell no `blocks` apart, and are used since {why_not}"
        )

    def told(interim: TraceEstimate) -> None:
        if report is not None:
            report(_by_probes(interim))

    def of(operator: LinearOperator) -> MeasuredTrace:
        return _by_probes(
            hutchinson_trace(
                operator,
                generator=generator,
                rtol=rtol,
                max_passes=max_passes,
                min_passes=min(8, max_passes),
                report=told,
            )
        )

    found = of(A)
    return replace(found, scale_invariant=of(scaled_by_weights(A))) if scale_invariant else found


def _by_probes(found: TraceEstimate) -> MeasuredTrace:
    return MeasuredTrace(
        found.value,
        found.standard_error,
        passes=found.passes,
        degrees=found.passes - 1,
        converged=found.converged,
        method="hutchinson",
    )
