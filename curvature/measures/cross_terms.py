"""What a draw's signs add to ‖Jᵀv‖² by chance, as far as the other examples foretell it.

‖Jᵀv‖² = vᵀKv with K = JJᵀ (C, C), where vvᵀ has the mean Λ = SSᵀ. Whatever M is, vᵀMv − tr(MΛ) has
the mean 0, and subtracting it takes variance away where M is like K (a control variate; Owen 2013,
section 8.9). M is what fits the draws of other examples best, so it can't depend on the signs that
it corrects; nor can the share of it that is subtracted.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

_FOLDS = 4
_OUTPUTS = 16  # more have too many products
_EACH = 32  # draws there must be for a product: of fewer it scattered more than without
_RIDGE = 0.01  # of the mean square of a product
_CLEARLY = 0.5  # of what is foretold, that is right, for it to be subtracted


class CrossTerms:
    """Learns from one draw of each unit, then corrects these draws and later ones."""

    def __init__(self, units: int, columns: int) -> None:
        self._fold = torch.arange(units) % _FOLDS
        self._columns = columns
        self.is_learning = True
        self._seen: tuple[Tensor, Tensor, Tensor] | None = None
        self._M: Tensor | None = None  # of every fold (folds, products, columns)

    @property
    def is_of_use(self) -> bool:
        """Whether there is something to learn, or was."""
        return self.is_learning or self._M is not None

    def see(self, units: Tensor, v: Tensor, root: Tensor, values: Tensor) -> None:
        """A first draw: v (N, C), S (N, C, C) and ‖Jᵀv‖² by columns."""
        chance, mean = _products(v, root)
        if self._seen is None:
            n = len(self._fold)
            self._seen = (
                chance.new_zeros(n, chance.shape[1]),
                chance.new_zeros(n, chance.shape[1]),
                values.new_zeros(n, self._columns),
            )
        for kept, new in zip(self._seen, (chance, mean, values), strict=True):
            kept[units] = new

    def learn(self) -> Tensor | None:
        """What to subtract from the first draws (units, columns); None where there are too few."""
        self.is_learning = False
        if self._seen is None:
            return None
        chance, mean, values = self._seen
        self._seen = None
        n, products = chance.shape
        if n < _EACH * products:
            return None
        size = _diagonal(mean)
        weight = torch.where(size > 0, 1 / size.clamp(min=1e-300), 0)
        x = chance + mean
        own = [self._fold == k for k in range(_FOLDS)]
        A = torch.stack([(x[rows] * weight[rows, None]).mT @ x[rows] for rows in own])
        B = torch.stack([(x[rows] * weight[rows, None]).mT @ values[rows] for rows in own])

        def without(*folds: int) -> Tensor:
            left = [k for k in range(_FOLDS) if k not in folds]
            return _solved(A[left].sum(0), B[left].sum(0))

        # how much of the correction of fold j is right, by an M that knows neither j nor k
        right = torch.zeros(_FOLDS, dtype=x.dtype)
        whole = torch.zeros(_FOLDS, dtype=x.dtype)
        for j, k in combinations(range(_FOLDS), 2):
            M = without(j, k).sum(1)
            for fold, other in ((j, k), (k, j)):
                rows = own[fold]
                by_chance = chance[rows] @ M
                right[other] += (values[rows].sum(1) - mean[rows] @ M) @ by_chance
                whole[other] += by_chance @ by_chance
        share = torch.where(right > _CLEARLY * whole, right / whole, 0).clamp(max=1)
        self._M = torch.stack([share[k] * without(k) for k in range(_FOLDS)])
        return self._of(torch.arange(n), chance)

    def of(self, units: Tensor, v: Tensor, root: Tensor) -> Tensor | None:
        """What to subtract from later draws, as `learn` has found; None where it found nothing."""
        return None if self._M is None else self._of(units, _products(v, root)[0])

    def _of(self, units: Tensor, chance: Tensor) -> Tensor:
        assert self._M is not None
        found = chance.new_zeros(len(units), self._columns)
        for k, M in enumerate(self._M):
            rows = self._fold[units] == k
            found[rows] = chance[rows] @ M
        return found


def foretold(outputs: Tensor) -> bool:
    """Whether outputs (N, C) have few enough products."""
    return outputs.dim() == 2 and outputs.shape[1] <= _OUTPUTS


def _products(v: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """v_a v_b − Λ_ab and Λ_ab, a ≤ b, (N, products) in float64."""
    a, b = torch.triu_indices(v.shape[1], v.shape[1])
    v, root = v.double().cpu(), root.double().cpu()
    mean = (root @ root.mT)[:, a, b]
    return v[:, a] * v[:, b] - mean, mean


def _diagonal(products: Tensor) -> Tensor:
    """The trace of Λ."""
    C = round((2 * products.shape[1] + 0.25) ** 0.5 - 0.5)
    a, b = torch.triu_indices(C, C)
    return products[:, a == b].sum(1)


def _solved(A: Tensor, B: Tensor) -> Tensor:
    ridge = _RIDGE * A.diagonal().mean() + torch.finfo(A.dtype).tiny
    found: Tensor = torch.linalg.solve(A + ridge * torch.eye(len(A), dtype=A.dtype), B)
    return found
