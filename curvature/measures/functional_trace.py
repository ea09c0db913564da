"""tr(R) of the functional Hessian R = H − G = Σ_i ω_i (∂ℓ_i/∂f)·∇²f(x_i) / Σω.

Only tensors whose own block isn't 0 have a part in it: none in a network that is piecewise linear
in each. Over the others Rademacher probes z: a smooth network needs a forward pass for zᵀRz.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from curvature.derivatives.fold import has_convolutions, recorded
from curvature.derivatives.own_blocks import curved_tensors
from curvature.empirical_risk import EmpiricalRisk
from curvature.empirical_risk.batches import examples
from curvature.empirical_risk.kinks import has_kinks
from curvature.empirical_risk.nested import joined
from curvature.empirical_risk.reach import Representatives
from curvature.empirical_risk.shortage import within_memory
from curvature.linalg.random_vectors import rademacher
from curvature.measures import units
from curvature.measures.draws import Draws
from curvature.measures.output_differences import OutputDifferences, Step
from curvature.operators import RiskOperator
from curvature.operators.ways import PLAIN

_PROBES = 4
_PASSES = 2  # before there is a standard error
_DEGREES = 8  # of freedom, before it is believed
_LOOKED_AT, _LOOKS = 16, 4  # units, and probes of each, that tell how many it will take,
_MANY = 4  # where there are as many times more units
_SORTED = 4  # units whose examples are sorted,
_GROUPS = 8  # where there are as many such groups
_PRODUCT = 3.5  # gradients that a product with R takes
_FORWARD = 0.5  # with moving the weights
_CENTER = 1.2  # with what every probe of some examples needs


def tensors_with_a_part(risk: EmpiricalRisk, generator: torch.Generator) -> list[str]:
    """The tensors whose own block of R isn't shown to be 0, by probes on examples in float64.

    It is not where none of the examples reaches the tensor, but others do.
    """
    double = risk.device.type != "mps"
    try:
        return _curved(risk, torch.float64 if double else risk.dtype, generator)
    except RuntimeError:  # a model with float32 written into it
        if risk.dtype == torch.float64 or not double:
            raise
        return _curved(risk, risk.dtype, generator)


def _curved(risk: EmpiricalRisk, dtype: torch.dtype, generator: torch.Generator) -> list[str]:
    assert risk.loss is not None
    few = _representatives(risk)
    twin = EmpiricalRisk(risk.model, risk.loss, few.parts, params=list(risk.params), dtype=dtype)
    found = set(few.unreached)
    with twin.evaluating():
        for part in twin.all_parts():
            left = {name: p for name, p in twin.params.items() if name not in found}
            if left:
                found.update(_curved_on(part, twin, left, generator))
    return [name for name in risk.params if name in found]


def _curved_on(
    part: Any, risk: EmpiricalRisk, params: Mapping[str, Tensor], generator: torch.Generator
) -> list[str]:
    """Those of ``params`` that are curved on these examples.

    Own convolutions and ReLU leave no path from a gradient to its own tensor, where PyTorch sends
    zeros all the way; the network is run as it is where its outputs, or a call, are others then.
    """
    tolerance = 1e-10 if risk.dtype == torch.float64 else 1e-6

    def found(f: Tensor) -> list[str]:
        r = torch.randn(f.shape, generator=generator, dtype=torch.float32).to(f)
        value = (f * r).sum()
        return curved_tensors(value, params, generator=generator, tolerance=tolerance)

    def outputs() -> Tensor:
        return joined(risk.predictions(part))

    if has_convolutions(risk.model):
        plain: list[Tensor] = []
        with suppress(Exception):  # which are its own, or come again
            folding = recorded(risk.model, lambda: plain.append(outputs().detach()))
            with folding.applied(apart=True):
                f = outputs()
                if _agree(f.detach(), plain[0], tolerance):
                    return found(f)
    return found(outputs())


def _agree(a: Tensor, b: Tensor, rtol: float) -> bool:
    return a.shape == b.shape and bool((a - b).norm() <= rtol * b.norm())


def _representatives(risk: EmpiricalRisk) -> Representatives:
    def found() -> Representatives:
        with risk.evaluating():
            return risk.representatives

    return within_memory(risk, found)


class FunctionalTrace:
    """A growing estimate of tr(R); a unit of its draws is a few examples with their own probes.

    ``scaled``: of Σ w_j² R_jj too, in ``draws[1]``. ``blocks``: of each tensor's part, which takes
    products with R. ``exact``: from products with all unit vectors.
    """

    def __init__(
        self,
        risk: EmpiricalRisk,
        generator: torch.Generator,
        parts: Collection[str],
        *,
        scaled: bool = False,
        blocks: bool = False,
        exact: bool = False,
    ) -> None:
        assert risk.loss is not None
        self.risk = risk
        self.exact = exact
        self._parts = [name for name in risk.layout if name in parts]
        self._operator = RiskOperator(risk, "functional_hessian")
        self._generator = generator
        self._mask = torch.zeros(risk.size, device=risk.device, dtype=risk.dtype)
        for name in self._parts:
            self._mask[risk.layout[name]] = 1
        self._w = risk.flatten([p.detach() for p in risk.leaves])
        size = float((self._w * self._mask).double().norm())
        self._unit = float(self._mask.double().norm()) / size if size else 1.0  # ‖z‖/‖w ⊙ z‖
        self._kinds = range(1 + scaled)
        self._steps = [] if exact or blocks else self._settled()
        columns = 1 if self._steps else len(self._parts)
        sizes = [examples(batch) for batch in risk.batches]
        at_once = units.examples_in_one(risk) if self._steps else max(sizes)
        self.units = units.cut(sizes, at_once)
        number = sum(map(len, self.units))
        count = 1 if exact else number
        self._groups = torch.arange(number)  # of units, that hold examples as they come
        self.draws = [Draws(count, columns, generator) for _ in self._kinds]

    @property
    def method(self) -> str:
        """What is done, for the record."""
        if self.exact:
            return "tr(H−G) exactly"
        if not self._steps:
            return "tr(H−G) by probes"
        shared = f"{max(units.sizes(self.units))} examples a probe"
        return f"tr(H−G) by differences of the outputs, {shared}, h = {self._steps[0].h:g}"

    @property
    def cost(self) -> float:
        """Gradients that a pass takes, as measured on small vision transformers."""
        if not self._steps:
            return _PRODUCT
        return sum(_FORWARD * (1 if step.one_sided else 2) for step in self._steps)

    @property
    def round(self) -> float:
        """Gradients that a round takes besides."""
        return _CENTER if self._steps else 0.0

    @property
    def passes(self) -> float:
        """Probes for each unit so far."""
        return float(len(self._mask.nonzero())) if self.exact else self.draws[0].per_unit

    def value(self, kind: int = 0) -> float:
        """tr(R), or Σ w_j² R_jj."""
        return self.draws[kind].value

    def variance(self, kind: int = 0) -> float:
        """Of the probes."""
        return 0.0 if self.exact else self.draws[kind].variance()

    @property
    def unit_sizes(self) -> list[int]:
        """How many examples each unit holds, in order; or units sorted together."""
        found: list[int] = self._grouped(torch.tensor(units.sizes(self.units))).tolist()
        return found

    def by_unit(self, kind: int = 0) -> Tensor | None:
        """What each of these adds to the value; None where units are whole batches."""
        return self._grouped(self.draws[kind].means.sum(1)) if self._steps else None

    def _grouped(self, values: Tensor) -> Tensor:
        return values.new_zeros(int(self._groups[-1]) + 1).index_add_(0, self._groups, values)

    def weigh(self, residuals: Tensor) -> None:
        """Share the probes in proportion to the ``residuals`` ‖∂ℓ/∂f‖ of all examples.

        R_i grows with them. Examples with like ones come together, where enough groups are left
        that hold examples as they come. Before the first draw.
        """
        if not self._steps:
            return
        count = sum(-(-len(batch) // _SORTED) for batch in self.units)
        if count >= _GROUPS:
            self.units, self._groups = units.alike(self.units, residuals, _SORTED)
        by_batch = torch.split(residuals.square(), [sum(map(len, rows)) for rows in self.units])
        spread = [
            own[rows].sum().sqrt()
            for own, batch in zip(by_batch, self.units, strict=True)
            for rows in batch
        ]
        for draws in self.draws:
            draws.weigh(torch.stack(spread))

    def blocks(self) -> tuple[dict[str, float], dict[str, float]] | None:
        """Each tensor's part and its variance, where they were taken apart."""
        if self._steps:
            return None
        draws = self.draws[0]
        variances = torch.zeros(len(self._parts)) if self.exact else draws.column_variances()
        return (
            dict(zip(self._parts, draws.means.sum(0).tolist(), strict=True)),
            dict(zip(self._parts, variances.tolist(), strict=True)),
        )

    @property
    def is_young(self) -> bool:
        """Too few draws to believe a small variance, which would be left at that."""
        few = len(self.draws[0].counts) * (self.passes - 1) < _DEGREES
        return not self.exact and self.passes > 0 and few

    def grow(self) -> None:
        """A probe more for every unit."""
        self.advance()

    def look(self) -> tuple[float, float] | None:
        """(value, variance at one probe for every unit), as some units tell; None if all are few.

        A round over all units costs as much as two or three probes before the first one.
        """
        count = len(self.draws[0].counts)
        if self.exact or count < _MANY * _LOOKED_AT:
            return None
        wanted = torch.zeros_like(self.draws[0].counts)
        wanted[torch.randperm(count, generator=self._generator)[:_LOOKED_AT]] = _LOOKS
        self._draw_all(wanted)
        return self.draws[0].of_few()

    def advance(self, number: float = 1) -> None:
        """As many probes for every unit, at random one more of what isn't whole; two at first."""
        if self.exact:
            self._take_the_diagonal()
            return
        draws = self.draws[0]
        budget = max(number, _PASSES) - 1 if draws.is_first else draws.budget + number
        for each in self.draws:
            each.budget = budget
        self._draw_all(draws.missing(budget))

    def _draw_all(self, numbers: Tensor) -> None:
        """As many probes of each unit."""
        unit = 0
        with self.risk.evaluating():
            for batch, rows in zip(self.risk.batches, self.units, strict=True):
                for chosen in rows:
                    if numbers[unit]:
                        self._draw(unit, self.risk.rows(batch, chosen), int(numbers[unit]))
                    unit += 1

    def _draw(self, unit: int, batch: Any, number: int) -> None:
        """As many probes of a unit, which share what is known of it at w."""
        if self._steps:
            centers = self._differences.centers(batch)
        term = self._operator.term(batch)
        for _ in range(number):
            if self._steps:
                values = [
                    torch.tensor([self._differences.form(centers, self._direction(kind), step)])
                    / self._factor(kind)
                    for kind, step in enumerate(self._steps)
                ]
            else:
                z = self._direction(0)
                product = z.double() * (term @ z).double()
                rows = [product, product * self._w.double().square()]
                values = [self._by_part(rows[kind]) for kind in self._kinds]
            for draws, value in zip(self.draws, values, strict=True):
                if not bool(value.isfinite().all()):
                    raise FloatingPointError(
                        f"zᵀ(H−G)z = {float(value.sum())} in unit {unit}: the network's outputs "
                        "aren't finite. Look at the weights, or use float64."
                    )
                draws.add(torch.tensor([unit]), value.double()[None])

    def _take_the_diagonal(self) -> None:
        diagonal = torch.zeros(self.risk.size, dtype=torch.float64)
        for j in self._mask.nonzero()[:, 0].tolist():
            e = torch.zeros_like(self._mask)
            e[j] = 1
            diagonal[j] = float((self._operator @ e)[j])
        w = self._w.double().cpu()
        for draws, row in zip(self.draws, (diagonal, diagonal * w.square()), strict=False):
            draws.add(torch.tensor([0]), self._by_part(row)[None])

    def _by_part(self, row: Tensor) -> Tensor:
        return torch.stack([row[self.risk.layout[name]].sum() for name in self._parts]).cpu()

    def _direction(self, kind: int) -> Tensor:
        """z, or z ⊙ w made as long as z, so that the same steps suit it."""
        z = rademacher(self._operator, self._generator) * self._mask
        return z * self._w * self._unit if kind else z

    def _factor(self, kind: int) -> float:
        return self._unit**2 if kind else 1.0

    def _settled(self) -> list[Step]:
        """The steps for every kind of direction; none where one has none."""
        few = _representatives(self.risk).parts
        self._differences = OutputDifferences(self.risk, few[0], self._parts)
        plain = OutputDifferences(self.risk, few[0], self._parts, plain=True)
        plainly = RiskOperator(self.risk, "functional_hessian")
        plainly.way = PLAIN  # to look for a faster one takes longer than these few products
        terms = [plainly.term(part) for part in few]
        steps = []
        for kind in self._kinds:
            probes = [self._direction(kind) for _ in range(_PROBES)]
            exact = torch.stack(
                [
                    sum(
                        (z.double() @ (term @ z).double() for term in terms),
                        z.new_zeros((), dtype=torch.float64),
                    )
                    for z in probes
                ]
            ).cpu()
            steps.append(plain.settle(few, probes, exact))
        # at a small h these few may cross no kink, where of all examples some always do
        smooth = None not in steps and not any(has_kinks(self.risk, part) for part in few)
        return [step for step in steps if step] if smooth else []
