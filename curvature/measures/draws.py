"""A sum over units of which each has its own mean of random draws, and what that leaves open.

Σ_u E[x_u], where unit u is drawn n_u = ⌊m_u + U_u⌋ times, m_u = 1 + budget · share_u with shares
known beforehand and one uniform U_u for good: so a larger budget only adds draws, and the number
of draws never depends on what was drawn (Neyman 1934 for the shares).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_EVERY_UNIT = 0.1  # of the budget goes to all alike, so that each can be drawn twice

_ALONE = 0.1  # of the variance of all, from which on a unit alone is looked at


class Draws:
    """``weights``: the spread expected of each unit, as far as it is known beforehand."""

    def __init__(self, units: int, columns: int, generator: torch.Generator) -> None:
        self.uniform = torch.rand(units, generator=generator, dtype=torch.float64)
        self.share = torch.ones(units, dtype=torch.float64)
        self.budget = 0.0
        self.counts = torch.zeros(units, dtype=torch.int64)
        self.means = torch.zeros(units, columns, dtype=torch.float64)
        # Σ (x − mean)² of a unit, for each column and for their sum
        self._deviations = torch.zeros(units, columns + 1, dtype=torch.float64)

    def weigh(self, spread: Tensor) -> None:
        """Share what comes after the first draw in proportion to the ``spread`` of each unit."""
        mean = float(spread.mean())
        if mean > 0:
            self.share = (1 - _EVERY_UNIT) * spread / mean + _EVERY_UNIT

    def missing(self, budget: float) -> Tensor:
        """How many draws each unit still needs at a mean of 1 + ``budget`` draws a unit."""
        wanted = (1 + budget * self.share + self.uniform).floor().long()
        return (wanted - self.counts).clamp(min=0)

    def add(self, units: Tensor, values: Tensor) -> None:
        """One more draw for each of ``units``, a row of ``columns`` numbers that are summed."""
        self.counts[units] += 1
        step = values - self.means[units]
        self.means[units] += step / self.counts[units, None]
        left = values - self.means[units]
        self._deviations[units, :-1] += step * left
        self._deviations[units, -1] += step.sum(1) * left.sum(1)

    @property
    def value(self) -> float:
        """The estimate of the sum."""
        return float(self.means.sum())

    def of_few(self) -> tuple[float, float]:
        """(value, variance at one draw a unit as they are shared), as those drawn twice tell."""
        again = self.counts > 1
        times = len(again) / int(again.sum())
        spread = self._deviations[again, -1] / (self.counts[again] - 1) / self.share[again]
        return times * float(self.means[again].sum()), times * float(spread.sum())

    @property
    def is_first(self) -> bool:
        """Whether a unit waits for its first draw."""
        return bool((self.counts == 0).any())

    @property
    def per_unit(self) -> float:
        """The mean number of draws."""
        return float(self.counts.double().mean())

    def variance(self, budget: float | None = None) -> float:
        """That of ``value``, unbiased; or what it would be at another ``budget``."""
        return float(self._spread() @ self._inverse(self.budget if budget is None else budget))

    def column_variances(self) -> Tensor:
        """That of the sum over units of each column."""
        inverse = self._inverse(self.budget)
        return torch.stack([self._spread(c) @ inverse for c in range(self.means.shape[1])])

    def _inverse(self, budget: float) -> Tensor:
        """E[1/n] of the number of draws n."""
        m = 1 + budget * self.share
        whole = m.floor()
        return (1 - (m - whole)) / whole + (m - whole) / (whole + 1)

    def degrees(self) -> float:
        """Degrees of freedom of ``variance`` (Satterthwaite 1946)."""
        own = (self.counts - 1).clamp(min=1).double()
        spread = self._spread() / self.counts
        noise = float((spread.square() * (1 - self._chance() * own / (own + 2))).sum())
        return 2 * float(spread.sum()) ** 2 / noise if noise > 0 else math.inf

    def repeats(self) -> float:
        """How many second draws tell of the spread, each weighed by its unit's size.

        Of few signs a unit's draws may well be alike: with probability 1/2 if two values are as
        probable. Where the sum hangs on few units, few second draws say little.
        """
        weights = self.means.sum(1).square()
        again = (self.counts - 1).clamp(min=0) * weights
        noise = float((again * weights).sum())
        if not noise:
            return math.inf if not float(weights.sum()) else 0.0
        return float(again.sum()) ** 2 / noise

    def _spread(self, column: int = -1) -> Tensor:
        """Each unit's variance, unbiased: 0 where there was one draw, so larger elsewhere.

        Where so much hangs on one unit that its single draw would hide it, it is taken to vary as
        the others do, relative to its size.
        """
        again = self.counts > 1
        own = self._deviations[:, column] / (self.counts - 1).clamp(min=1)
        spread = torch.where(again, own / self._chance(), 0.0)
        squares = (self.means[:, column] if column >= 0 else self.means.sum(1)).square()
        seen = float((squares * again / self._chance()).sum())
        alike = float(spread.sum()) / seen * squares if seen > 0 else torch.zeros_like(squares)
        inverse = self._inverse(self.budget)
        large = alike * inverse > _ALONE * float(spread @ inverse)
        return torch.where(large, torch.where(again, own, alike), spread)

    def _chance(self) -> Tensor:
        """That a unit is drawn twice at least."""
        return (self.budget * self.share).clamp(1e-12, 1)
