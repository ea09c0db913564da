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
_SURELY = 0.8  # of the passes that seem to lack
_AT_FIRST = 32  # passes, after which there is something to report
_KNOWN, _WELL_KNOWN = 32, 400  # degrees of freedom from which on a variance tells what is lacking


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
        return any(part.is_young for part in self.all)

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
        """The standard error if the examples are a sample: the units' spread, draws included."""
        if not self.all:
            return math.inf
        told = [part.by_unit(kind) for part in self.all]
        sizes = torch.tensor(self.all[-1].unit_sizes)  # the coarser ones, which hold whole others
        ends = sizes.cumsum(0)
        sums = torch.zeros(len(sizes), dtype=torch.float64)
        for part, values in zip(self.all, told, strict=True):
            if values is None:
                return None
            last = torch.tensor(part.unit_sizes).cumsum(0)
            sums.index_add_(0, torch.searchsorted(ends, last), values)
        count = len(sizes)
        if count < 2:
            return math.inf
        apart = sums - sizes * sums.sum() / sizes.sum()
        return math.sqrt(count / (count - 1) * float(apart.square().sum()))

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
    units = _UNITS_ON_REQUEST if exact else min(_UNITS, max_passes)
    parts = _prepared(
        A, generator, exact=exact, scaled=scale_invariant, blocks=blocks, most_units=units
    )
    if parts.R is not None:
        parts.R.advance(_first_passes(parts, parts.R, rtol, max_passes))
    while True:
        found = parts.estimate(rtol)
        if not math.isfinite(found.value):
            raise FloatingPointError(
                f"The trace is {found.value} at these weights, though the loss is finite: squares "
                f"overflow in {A.dtype}. Check the scale of the inputs, or use float64."
            )
        if report is not None:
            report(found)
        both = [found, found.scale_invariant or found]
        open_ = [kind for kind, each in enumerate(both) if not each.converged]
        if not open_ or found.passes >= max_passes:
            return found
        wanted = (rtol * both[open_[0]].value / caution(both[open_[0]].degrees)) ** 2
        _advance_one(parts, open_[0], wanted, max_passes - found.passes)


def _first_passes(parts: _Parts, R: FunctionalTrace, rtol: float, most: float) -> float:
    """Of tr(R): most of what it surely takes beside tr(G), as far as a few units tell."""
    G = parts.G
    if G is None:
        return 1
    seen = R.look()
    if seen is None:
        return 1
    value, variance = seen
    known = G.value() + parts.diagonal * parts.risk.size
    wanted = (rtol * max(abs(known), abs(known + value))) ** 2
    aims = _cheapest([(variance, R.cost), (G.variance() * G.passes, G.cost)], wanted)
    return min(_SURELY * aims[0], _AT_FIRST, most - G.passes)


def _advance_one(parts: _Parts, kind: int, wanted: float, left: float) -> None:
    """More draws for the part that lacks most of the cheapest way to the ``wanted`` variance."""
    for part in parts.all:
        if part.is_young:
            part.grow()
            return
    open_ = [part for part in parts.all if part.variance(kind) > 0]
    aims = _cheapest([(p.variance(kind) * p.passes, p.cost) for p in open_], wanted)
    aim, part = max(zip(aims, open_, strict=True), key=lambda pair: pair[0] / pair[1].passes)
    if isinstance(part, GaussNewtonTrace):
        part.advance(part.budget_for(part.variance(kind) * part.passes / aim, kind))
        return
    others = wanted - part.variance(kind)  # variance that is left to tr(G)
    if parts.G is not None and others > 0:
        lacking = parts.G.passes * (parts.G.variance(kind) / others - 1)
        if 0 < lacking * parts.G.cost < part.round + (aim - part.passes) * part.cost:
            parts.G.advance(parts.G.budget_for(others, kind))
            return
    part.advance(min(_more(part, kind, aim), max(left, 1.0)))


def _cheapest(parts: list[tuple[float, float]], wanted: float) -> list[float]:
    """Passes p of each part for the ``wanted`` variance in all, which is V/p at a cost of cp.

    ``parts`` are (V, c); p is in proportion to √(V/c).
    """
    each = [math.sqrt(V / c) for V, c in parts]
    whole = math.fsum(x * c for x, (_, c) in zip(each, parts, strict=True))
    return [x * whole / max(wanted, 1e-300) for x in each]


def _more(R: FunctionalTrace, kind: int, aim: float) -> float:
    """Passes towards ``aim``: most of what it surely takes, for each time costs a gradient more."""
    lacking, degrees = aim - R.passes, R.draws[kind].degrees()
    if degrees < _KNOWN:
        return math.ceil(min(max(_SURELY * lacking, 1.0), 3 * R.passes))
    one_draw = 1 / len(R.draws[kind].counts)  # less might be none, again and again
    return max(lacking * (_SURELY if degrees < _WELL_KNOWN else 1.02), one_draw)


def _prepared(
    A: RiskOperator,
    generator: torch.Generator,
    *,
    exact: bool,
    scaled: bool,
    blocks: bool,
    most_units: int,
) -> _Parts:
    risk = A.risk
    curved = [] if A.kind == "ggn" else tensors_with_a_part(risk, generator)
    size = sum(risk.params[name].numel() for name in curved)
    G = R = None
    if A.kind != "functional_hessian":
        G = GaussNewtonTrace(risk, generator, exact=exact, scaled=scaled)
        G.advance()  # surveys the risk on the way
    if curved:
        by_units = size <= most_units
        R = FunctionalTrace(risk, generator, curved, scaled=scaled, blocks=blocks, exact=by_units)
        if G is not None:
            R.weigh(G.residuals)
    return _Parts(risk, A.diagonal, scaled, G, R, shown=A.kind != "ggn" and not curved)
