"""tr(H) = tr(G) + tr(H − G): each part by its own cheapest way, one standard error for both."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from curvature.empirical_risk import EmpiricalRisk
from curvature.empirical_risk.batches import can_be_cut
from curvature.empirical_risk.checks import check_independent
from curvature.linalg import LinearOperator
from curvature.measures.functional_trace import FunctionalTrace, tensors_with_a_part
from curvature.measures.gauss_newton_trace import GaussNewtonTrace
from curvature.measures.measured_trace import MeasuredTrace, caution, precise_enough
from curvature.operators import RiskOperator

Report = Callable[[MeasuredTrace], object]
_UNITS = 64  # parameters for which products with all unit vectors are cheaper than probes
_UNITS_ON_REQUEST = 4096  # the same where exactness is asked for


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
        with risk.evaluating(), torch.no_grad():
            few = risk.few(batch)
            if not isinstance(risk.predictions(few), torch.Tensor):
                return "the loss takes more than one tensor of outputs."
            check_independent(risk.model, few, risk.pick)
    except ValueError as error:
        return str(error)
    return ""


@dataclass
class _Parts:
    """What is estimated, and what is known: the weight decay's share, and whether tr(R) = 0."""

    risk: EmpiricalRisk
    diagonal: float
    scaled: bool
    G: GaussNewtonTrace | None
    R: FunctionalTrace | None
    shown: bool = False

    @property
    def all(self) -> list[GaussNewtonTrace | FunctionalTrace]:
        return [part for part in (self.G, self.R) if part is not None]

    @property
    def is_young(self) -> bool:
        """Part of the error is hardly known yet."""
        return self.R is not None and self.R.is_young

    def estimate(self, rtol: float) -> MeasuredTrace:
        found = self._of(0, rtol)
        blocks, errors = self._blocks()
        invariant = self._of(1, rtol) if self.scaled else None
        return replace(found, blocks=blocks, block_errors=errors, scale_invariant=invariant)

    def _of(self, kind: int, rtol: float) -> MeasuredTrace:
        """tr(H), or Σ w_j² H_jj."""
        known = self.diagonal * self.risk.size
        if kind:
            known = self.diagonal * sum(
                float(p.detach().double().norm()) ** 2 for p in self._leaves
            )
        value = known + math.fsum(part.value(kind) for part in self.all)
        variances = [part.variance(kind) for part in self.all]
        variance = math.fsum(variances)
        own = sum(
            v**2 / p.draws[kind].degrees() for v, p in zip(variances, self.all, strict=True) if v
        )
        degrees = variance**2 / own if own else math.inf
        methods = [part.method for part in self.all] + ["tr(H−G) = 0 shown"] * self.shown
        return MeasuredTrace(
            value,
            math.sqrt(variance),
            passes=math.fsum(part.passes for part in self.all),
            degrees=degrees,
            converged=not self.is_young and precise_enough(value, variance, degrees, rtol),
            method="split: " + ", ".join(methods),
            sampling_error=self._sampling_error(kind),
        )

    @property
    def _leaves(self) -> list[Tensor]:
        return self.risk.leaves

    def _sampling_error(self, kind: int) -> float | None:
        """The standard error if the examples are a sample: their spread / √N, draws included.

        A few probes tell little of one example: of what two of them say, the noise is taken off.
        """
        forms = self.R.by_example(kind) if self.R else None
        if self.R and forms is None:
            return None
        sizes = self.G.unit_sizes if self.G else [1] * (forms.shape[1] if forms is not None else 0)
        sums = self.G.by_unit(kind) if self.G else torch.zeros(len(sizes), dtype=torch.float64)
        noise = torch.zeros(())
        if forms is not None:
            first, second = (torch.stack([u.sum() for u in f.split(sizes)]) for f in forms)
            sums = sums + (first + second) / 2
            noise = ((first - second) / 2).square().sum()
        if len(sums) < 2:
            return math.inf
        spread = max(0.0, len(sums) * float(sums.var()) - float(noise))
        return math.sqrt(spread + (self.R.variance(kind) if self.R else 0.0))

    def _blocks(self) -> tuple[dict[str, float] | None, dict[str, float] | None]:
        """Each parameter's share of tr(H), and its standard error, where all parts tell."""
        told = [part.blocks() for part in self.all]
        values = {name: self.diagonal * p.numel() for name, p in self.risk.params.items()}
        variances = dict.fromkeys(values, 0.0)
        for part in told:
            if part is None:
                return None, None
            for total, more in zip((values, variances), part, strict=True):
                total.update({name: total[name] + more[name] for name in more})
        return values, {name: math.sqrt(variance) for name, variance in variances.items()}


def split_trace(
    A: RiskOperator,
    *,
    rtol: float,
    max_passes: int,
    generator: torch.Generator,
    report: Report | None,
    exact: bool = False,
    scale_invariant: bool = False,
    blocks: bool = False,
) -> MeasuredTrace:
    """tr(G) by per-example gradients, tr(H − G) shown to be 0 or by probes.

    The next draws go where they take most of the variance away for their cost, counted in
    gradients: by the clock, the same seed would not give the same result. ``exact``: tr(G) from a
    gradient per example and output, tr(H − G) by all unit vectors where these are few.
    """
    parts = _prepared(A, generator, exact=exact, scaled=scale_invariant, blocks=blocks)
    for part in parts.all:
        part.advance()
    while True:
        found = parts.estimate(rtol)
        if report is not None:
            report(found)
        both = [found, found.scale_invariant or found]
        open_ = [kind for kind, each in enumerate(both) if not each.converged]
        if not open_ or found.passes >= max_passes:
            return found
        wanted = (rtol * both[open_[0]].value / caution(both[open_[0]].degrees)) ** 2
        _advance_one(parts, open_[0], wanted, max_passes - found.passes)


def _advance_one(parts: _Parts, kind: int, wanted: float, left: float) -> None:
    """More draws for the part that gains most, no more than are ``wanted``."""
    G, R = parts.G, parts.R
    if R is not None and parts.is_young:
        R.advance()
    elif G is not None and (R is None or _gain(G, kind) >= _gain(R, kind)):
        rest = R.variance(kind) if R else 0.0
        G.advance(G.budget_for(max(0.0, wanted - rest), kind))
    else:
        assert R is not None
        rest = G.variance(kind) if G else 0.0
        lacking = R.variance(kind) * R.passes / max(wanted - rest, 1e-300) - R.passes
        # a guess from few probes, so not all of it at once
        R.advance(math.ceil(min(max(lacking, 1.0), R.passes / 2, max(left, 1.0))))


def _gain(part: GaussNewtonTrace | FunctionalTrace, kind: int) -> float:
    return part.variance(kind) / part.passes / part.cost


def _prepared(
    A: RiskOperator, generator: torch.Generator, *, exact: bool, scaled: bool, blocks: bool
) -> _Parts:
    risk = A.risk
    curved = [] if A.kind == "ggn" else tensors_with_a_part(risk, generator)
    size = sum(risk.params[name].numel() for name in curved)
    G = R = None
    if A.kind != "functional_hessian":
        G = GaussNewtonTrace(risk, generator, exact=exact, scaled=scaled)
    if curved:
        by_units = size <= (_UNITS_ON_REQUEST if exact else _UNITS)
        R = FunctionalTrace(risk, generator, curved, scaled=scaled, blocks=blocks, exact=by_units)
    return _Parts(risk, A.diagonal, scaled, G, R, shown=A.kind != "ggn" and not curved)
