"""tr(H) = tr(G) + tr(H − G): each part by its own cheapest way, one standard error for both."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from curvature.empirical_risk.batches import can_be_cut
from curvature.empirical_risk.checks import check_independent
from curvature.linalg import LinearOperator
from curvature.measures.functional_trace import FunctionalTrace, own_blocks_are_zero
from curvature.measures.gauss_newton_trace import GaussNewtonTrace
from curvature.measures.measured_trace import MeasuredTrace, caution, precise_enough
from curvature.operators import RiskOperator

Report = Callable[[MeasuredTrace], object]


def refusal(A: LinearOperator) -> str:
    """Why tr(A) can't be split, as a sentence; empty where it can."""
    if not isinstance(A, RiskOperator):
        return "it isn't the Hessian of a risk, only a product."
    risk = A.risk
    if A.differences is not None:
        return "its products are differences of the gradient."
    if risk.loss is None:
        return "the loss takes (model, batch) whole, so outputs and targets aren't known apart."
    if risk.loss.root_product is None and A.kind != "functional_hessian":
        return f"the loss `{risk.loss.name}` has no root of its Hessian by the outputs."
    if risk.mode == "train":
        return "in training mode BatchNorm couples the examples of a batch."
    batch = next(iter(risk.batches))
    if not can_be_cut(batch):
        return "the inputs don't lead with the examples, so a batch can't be cut."
    try:
        with risk.evaluating():
            few = risk.few(batch)
            if not isinstance(risk.predictions(few), torch.Tensor):
                return "the loss takes more than one tensor of outputs."
            check_independent(risk.model, few, risk.pick)
    except ValueError as error:
        return str(error)
    return ""


@dataclass
class _Parts:
    """What is estimated, and what is known: the weight decay's λn, and whether tr(R) = 0."""

    known: float
    G: GaussNewtonTrace | None
    R: FunctionalTrace | None
    shown: bool = False

    @property
    def is_young(self) -> bool:
        """Part of the error is hardly known yet."""
        return self.R is not None and self.R.is_young

    def estimate(self, rtol: float) -> MeasuredTrace:
        parts = [part for part in (self.G, self.R) if part is not None]
        value = self.known + math.fsum(part.value() for part in parts)
        variances = [part.variance() for part in parts]
        variance = math.fsum(variances)
        own = sum(v**2 / p.draws.degrees() for v, p in zip(variances, parts, strict=True) if v)
        degrees = variance**2 / own if own else math.inf
        methods = [part.method for part in parts] + ["tr(H−G) = 0 shown"] * self.shown
        return MeasuredTrace(
            value,
            math.sqrt(variance),
            passes=math.fsum(part.passes for part in parts),
            degrees=degrees,
            converged=not self.is_young and precise_enough(value, variance, degrees, rtol),
            method="split: " + ", ".join(methods),
            sampling_error=self.G.sampling_error() if self.G and not self.R else None,
            blocks=self.G.blocks() if self.G and not self.R and not self.known else None,
        )


def split_trace(
    A: RiskOperator,
    *,
    rtol: float,
    max_passes: int,
    generator: torch.Generator,
    report: Report | None,
) -> MeasuredTrace:
    """tr(G) by per-example gradients, tr(H − G) shown to be 0 or by probes.

    The next draws go where they take most of the variance away for their cost, counted in
    gradients: by the clock, the same seed would not give the same result.
    """
    parts = _prepared(A, generator)
    for part in (parts.G, parts.R):
        if part is not None:
            part.advance()
    while True:
        found = parts.estimate(rtol)
        if report is not None:
            report(found)
        if found.converged or found.passes >= max_passes:
            return found
        _advance_one(parts, (rtol * found.value / caution(found.degrees)) ** 2)


def exact_trace(
    A: RiskOperator,
    *,
    rtol: float,
    max_passes: int,
    generator: torch.Generator,
    report: Report | None,
) -> MeasuredTrace:
    """tr(G) from a gradient per example and output; tr(H − G) as in ``split_trace``."""
    parts = _prepared(A, generator, exact=True)
    if parts.G is not None:
        parts.G.advance()
    if parts.R is not None:
        parts.R.advance()
    while True:
        found = parts.estimate(rtol)
        if report is not None:
            report(found)
        if parts.R is None or found.converged or parts.R.passes >= max_passes:
            return found
        parts.R.advance()


def _advance_one(parts: _Parts, wanted: float) -> None:
    """One pass for the part that gains most; of tr(G) no more of one than is ``wanted``."""
    G, R = parts.G, parts.R
    if R is not None and parts.is_young:
        R.advance()
    elif G is not None and (R is None or _gain(G) >= _gain(R)):
        G.advance(G.budget_for(max(0.0, wanted - (R.variance() if R else 0.0))))
    else:
        assert R is not None
        R.advance()


def _gain(part: GaussNewtonTrace | FunctionalTrace) -> float:
    return part.variance() / part.passes / part.cost


def _prepared(A: RiskOperator, generator: torch.Generator, *, exact: bool = False) -> _Parts:
    risk = A.risk
    shown = A.kind != "ggn" and own_blocks_are_zero(risk, generator)
    return _Parts(
        A.diagonal * A.size,
        None if A.kind == "functional_hessian" else GaussNewtonTrace(risk, generator, exact=exact),
        None if A.kind == "ggn" or shown else FunctionalTrace(risk, generator),
        shown,
    )
