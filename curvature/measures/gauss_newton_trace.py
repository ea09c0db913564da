"""tr(G) without a probe in parameter space: G = Σ_i ω_i J_iᵀΛ_iJ_i / Σω, Λ_i = S_iS_iᵀ.

tr(J_iᵀΛ_iJ_i) = E‖J_iᵀS_iε‖² for random signs ε: squared norms of per-example gradients.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from curvature.derivatives.memory import is_out_of_memory
from curvature.derivatives.per_example import Recording, distrusted, record
from curvature.empirical_risk import EmpiricalRisk
from curvature.empirical_risk.batches import examples
from curvature.empirical_risk.reach import Piece, rows_of_batches, spread
from curvature.empirical_risk.shortage import halve_micro_batch, within_memory
from curvature.empirical_risk.survey import Tally
from curvature.measures.cross_terms import CrossTerms, foretold
from curvature.measures.draws import Draws
from curvature.measures.root_basis import RootBasis
from curvature.measures.units import cut, sizes

_AT_ONCE = 64  # examples of a forward pass; more are slower on a CPU,
_NUMBERS = 2**20  # except where the largest output of a layer has no more numbers
_COLUMNS = 16  # of the root that are formed at a time, where all are wanted
_TOGETHER = 8  # examples whose gradients are summed where a layer has no rule
_CHECKED = 16  # examples on which the rules are checked
_FIRST_BUDGET = 0.1  # second draws, as a share of the units, before the first error is known
_AGAIN = 32  # second draws there must be at least
_REPEATS = 8  # of them, each weighed by its unit's size


_Unit = Piece[int]  # with its number


class GaussNewtonTrace:
    """A growing estimate of tr(G); a unit of its draws is an example, or a few together.

    ``scaled``: of Σ w_j² G_jj too, in ``draws[1]``; then no rule applies, and few are together.
    ``residuals``: ‖∂ℓ/∂f‖ of all examples in order, once there was a pass.
    """

    def __init__(
        self,
        risk: EmpiricalRisk,
        generator: torch.Generator,
        *,
        exact: bool = False,
        scaled: bool = False,
    ) -> None:
        assert risk.loss is not None
        assert risk.loss.root_product is not None
        self.risk = risk
        self._root = risk.loss.root_product
        self._gradient = risk.loss.gradient
        self._basis = None if exact else RootBasis(risk)
        self._generator = generator
        self._names = list(risk.params)
        self.exact = exact
        self._scaled = scaled
        if scaled:
            self._avoid, self.rest = set(self._names), self._names
        else:
            self._avoid, self.rest = within_memory(risk, self._checked)
        self._together = _TOGETHER if self.rest and not exact else 1
        batches = [examples(batch) for batch in risk.batches]
        self._largest = max(batches)
        self._units = cut(batches, self._together)
        count = sum(map(len, self._units))
        self.draws = [Draws(count, len(self._names), generator) for _ in range(1 + scaled)]
        self._cross: CrossTerms | None = None
        if not (exact or scaled or self.rest):
            self._cross = CrossTerms(count, len(self._names))
        self._numbers = 0  # of an example in the largest output of a layer, once that is known
        self._tally: Tally | None = None  # of the first pass
        self._starts = [0, *itertools.accumulate(sizes(self._units))]
        self.residuals = torch.zeros(sum(batches), dtype=torch.float64)
        self._least = max(_FIRST_BUDGET, _AGAIN / count)

    @property
    def method(self) -> str:
        """What is done, for the record."""
        if self.exact:
            return "tr(G) exactly"
        which = f" for {_listed(self.rest)}" if len(self.rest) < len(self._names) else ""
        few = f", {_TOGETHER} examples at a time{which}" if self.rest else ""
        return f"tr(G) by signs{few}"

    @property
    def cost(self) -> float:
        """Gradients that a pass takes, as measured on a ResNet-20 and a vision transformer."""
        return 1.9 if self.rest else 1.1

    @property
    def passes(self) -> float:
        """Backward passes over all examples so far."""
        return self.draws[0].per_unit

    def value(self, kind: int = 0) -> float:
        """tr(G), or Σ w_j² G_jj."""
        return self.draws[kind].value * self.risk.scale

    def variance(self, kind: int = 0) -> float:
        """Of the signs, not of the examples."""
        return 0.0 if self.exact else self.draws[kind].variance() * self.risk.scale**2

    def by_unit(self, kind: int = 0) -> Tensor:
        """What each unit adds to the value."""
        return self.draws[kind].means.sum(1) * self.risk.scale

    @property
    def unit_sizes(self) -> list[int]:
        """How many examples each unit holds, in order."""
        return sizes(self._units)

    def blocks(self) -> tuple[dict[str, float], dict[str, float]]:
        """The trace of each parameter's own block, and its variance."""
        sums = self.draws[0].means.sum(0) * self.risk.scale
        variances = self.draws[0].column_variances() * self.risk.scale**2
        if self.exact:
            variances = torch.zeros_like(sums)
        return (
            dict(zip(self._names, sums.tolist(), strict=True)),
            dict(zip(self._names, variances.tolist(), strict=True)),
        )

    @property
    def is_young(self) -> bool:
        """Too few second draws to believe a small variance, which would be left at that."""
        drawn = not self.exact and self.passes > 0
        return drawn and any(draws.repeats() < _REPEATS for draws in self.draws)

    def grow(self) -> None:
        """About as many second draws again as there are."""
        self.advance(2 * self.draws[0].budget + self._least)

    def budget_for(self, variance: float, kind: int = 0) -> float:
        """The budget at which the estimate's variance would come down to ``variance``."""
        draws = self.draws[kind]
        low = high = draws.budget
        while draws.variance(high) * self.risk.scale**2 > variance and high < low + 1:
            high = 1.05 * high + 0.02
        return high

    def advance(self, budget: float | None = None) -> None:
        """One draw for each unit the first time; then as many more as the budget adds."""
        draws = self.draws[0]
        if not draws.per_unit:
            spread = torch.zeros(len(draws.share), dtype=torch.float64)
            self._tally = None if self.risk.seen else Tally()
            self._draw(torch.ones_like(draws.counts), lambda units, s: spread.__setitem__(units, s))
            if self._tally is not None:
                self.risk.accept(self._tally)
                self._tally = None
            if self.exact:
                return
            by_chance = self._cross.learn() if self._cross is not None else None
            if by_chance is not None:
                draws.means -= by_chance
            for each in self.draws:
                each.weigh(spread)
            budget = self._least
        assert budget is not None
        missing = draws.missing(budget)
        for each in self.draws:
            each.budget = budget
        for number in range(int(missing.max())):
            self._draw((missing > number).long(), lambda units, s: None)

    def _draw(self, wanted: Tensor, tell: Callable[[Tensor, Tensor], object]) -> None:
        """A draw for every unit ``wanted``; ``tell`` gets each unit's size of Λ."""
        with self.risk.evaluating():
            for part, units in self._joined(self._chosen(wanted)):
                values, size = self._visit_all(part, units)
                numbers = torch.tensor([unit.tag for unit in units])
                for draws, columns in zip(self.draws, values, strict=True):
                    draws.add(numbers, columns)
                tell(numbers, size)

    def _chosen(self, wanted: Tensor) -> Iterator[_Unit]:
        asked = enumerate(wanted.tolist())
        for batch, units in zip(self.risk.batches, self._units, strict=True):
            for rows, (number, is_wanted) in zip(units, asked, strict=False):
                if is_wanted:
                    yield Piece(batch, rows, number)

    def _joined(self, units: Iterable[_Unit]) -> Iterator[tuple[Any, list[_Unit]]]:
        """As many of them as are visited at once, and their examples."""
        if self.rest:  # one by one
            return ((self._rows(unit), [unit]) for unit in units)
        # asked each time, for memory may run out on the way
        return rows_of_batches(self.risk, units, lambda: self._examples_at_once)

    def _rows(self, unit: _Unit) -> Any:
        assert unit.rows is not None
        return self.risk.rows(unit.batch, unit.rows)

    @property
    def _examples_at_once(self) -> int:
        """Where all have a rule; a unit that has none is one forward pass, whatever there is."""
        fast = max(_AT_ONCE, _NUMBERS // self._numbers) if self._numbers else _AT_ONCE
        return min(fast, self._largest, self.risk.micro_batch or self._largest)

    def _visit_all(self, part: Any, units: list[_Unit]) -> tuple[Tensor, Tensor]:
        """``_visit`` of these units; of half as many at a time where memory runs out."""
        try:
            return self._visit(part, units)
        except RuntimeError as error:
            if len(units) == 1 or not is_out_of_memory(error):
                raise
        middle = len(units) // 2
        if self._examples_at_once > middle:
            halve_micro_batch(self.risk, self._examples_at_once)
        halves = units[:middle], units[middle:]
        return _in_turn(self._visit_all(*one) for half in halves for one in self._joined(half))

    def _visit(
        self, part: Any, units: list[_Unit], signs: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """‖∂(v_iᵀf_i)/∂θ‖² (kinds, units, number of θ), and each unit's ‖v‖² of other signs.

        The latter is tr Λ_i in an eigenbasis, and independent of the draw in any.
        """
        recording = record(
            self.risk.model,
            self.risk.params,
            lambda: self.risk.outputs(part),
            avoid=self._avoid,
            by_example=True,
            examples=examples(part),
        )
        f = recording.outputs
        self._numbers = max(self._numbers, recording.largest // len(f))
        if not f.isfinite().all():
            self.risk.survey  # noqa: B018 (which says what that means)
        if signs is None:
            signs = torch.randint(
                2, (len(f), 2, *f.shape[1:]), generator=self._generator, dtype=torch.int8
            )
        if recording.rest and self._together == 1 and len(units) > 1:
            return _in_turn(
                self._visit(self._rows(unit), [unit], own[None])
                for unit, own in zip(units, signs, strict=True)
            )
        total = torch.zeros(len(self.draws), len(units), len(self._names), dtype=torch.float64)
        if self._basis is None:
            for v in self._columns(f.detach(), part[1]):
                total += self._squares(recording, v, len(units))
            self._count(part, units, f)
            return total, torch.zeros(len(units), dtype=torch.float64)
        signs = signs.transpose(0, 1).to(f) * 2 - 1
        v, other = self._basis.vectors(f.detach(), part[1], signs)
        total += self._squares(recording, v, len(units))
        if self._cross is not None and foretold(f):
            self._foretell(self._cross, part, units, v, f.detach(), total[0])
        self._count(part, units, f)
        return total, other.double().reshape(len(units), -1).square().sum(1).cpu()

    def _foretell(
        self, cross: CrossTerms, part: Any, units: list[_Unit], v: Tensor, f: Tensor, values: Tensor
    ) -> None:
        """Learn from first draws, and take from later ones what they have by chance."""
        assert self._basis is not None
        if not cross.is_of_use:
            return
        numbers = torch.tensor([unit.tag for unit in units])
        root = self._basis.columns(f, part[1])
        if cross.is_learning:
            cross.see(numbers, v, root, values)
            return
        by_chance = cross.of(numbers, v, root)
        if by_chance is not None:
            values -= by_chance

    def _count(self, part: Any, units: list[_Unit], f: Tensor) -> None:
        """Once for each example: where memory ran out on the way, this wasn't reached."""
        numbers = [i for unit in units for i in range(*self._starts[unit.tag : unit.tag + 2])]
        if self.draws[0].is_first and len(f) == len(numbers):
            r = self._gradient(f.detach(), part[1])
            self.residuals[numbers] = r.reshape(len(r), -1).norm(dim=1).cpu().double()
        if self._tally is not None:
            self._tally.add(*self.risk.sum_and_weight(part, f.detach())[:2])

    def _columns(self, f: Tensor, targets: Any) -> Iterator[Tensor]:
        """S e_k for every k."""
        unit = torch.eye(f[0].numel(), dtype=f.dtype, device=f.device)
        for e in torch.split(unit, _COLUMNS):
            yield from self._root(f, targets, e.view(-1, 1, *f.shape[1:]).expand(-1, *f.shape))

    def _squares(self, recording: Recording, v: Tensor, units: int) -> Tensor:
        apart, together = recording.squared_norms(v, retain_graph=self.exact, scaled=self._scaled)
        nothing = torch.zeros(len(self.draws), units, dtype=torch.float64, device=v.device)
        columns = [
            together[name].double().view(-1, 1)
            if name in together
            else apart[name].double().view(1, units, -1).sum(2)
            if name in apart
            else nothing
            for name in self._names
        ]
        return torch.stack(columns, 2).cpu()

    def _checked(self) -> tuple[set[str], list[str]]:
        """The parameters whose rule isn't seen to hold, and those of them that are in use."""
        few = spread(self.risk, _CHECKED, min(_CHECKED, self.risk.largest_part))

        def forward(k: int, i: int | None) -> Tensor:
            return self.risk.outputs(few[k] if i is None else self.risk.rows(few[k], [i]))

        with self.risk.evaluating():
            avoid, used = distrusted(
                self.risk.model,
                self.risk.params,
                forward,
                [examples(batch) for batch in few],
                generator=torch.Generator().manual_seed(0),
                rtol=1e-3 if self.risk.dtype == torch.float32 else 1e-6,
            )
        return avoid, [name for name in self._names if name in avoid & used]


def _in_turn(found: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    values, sizes = zip(*found, strict=True)
    return torch.cat(values, 1), torch.cat(sizes)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
