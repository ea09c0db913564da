"""Signs ε_i for tr(J_iᵀΛ_iJ_i) = E‖J_iᵀS_iε_i‖² in a basis that makes their cross terms small.

Any S_iO_i with an orthogonal O_i is a root of Λ_i, too. The variance is 2 Σ_{a≠b} K_ab², K =
O_iᵀS_iᵀJ_iJ_iᵀS_iO_i: none where O_i makes K diagonal. J_iJ_iᵀ is much alike for all examples of a
network, so O_i comes from its mean over a few: a fifth of the variance on a vision transformer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from curvature.derivatives.output_gram import output_gram
from curvature.empirical_risk import EmpiricalRisk
from curvature.empirical_risk.batches import examples

_SEEN = 4  # examples whose JJᵀ is looked at; 96 are hardly better
_OUTPUTS = 32  # more would take more than they save
_SHARE = 4  # examples there must be for each gradient that is looked at


class RootBasis:
    """S_iO_i of every example; O_i = 1 where outputs are too many, or few examples are drawn."""

    def __init__(self, risk: EmpiricalRisk) -> None:
        assert risk.loss is not None
        assert risk.loss.root_product is not None
        self._root = risk.loss.root_product
        self._gram = _mean_gram(risk)

    def vectors(self, f: Tensor, targets: Any, signs: Tensor) -> tuple[Tensor, Tensor]:
        """(S_iO_iε_i, S_iε'_i) for ``signs`` (2, *f's shape), ε and ε' of every example."""
        if self._gram is None:
            v, other = self._root(f, targets, signs)
            return v, other
        n, C = f.shape
        unit = torch.eye(C, dtype=f.dtype, device=f.device)
        S = self._root(f, targets, unit[:, None, :].expand(C, n, C)).double().movedim(0, 2)
        _, Q = torch.linalg.eigh(S.mT @ self._gram.to(S) @ S)
        root = S @ Q
        # rounding mustn't turn a column around: the same signs would be another draw
        largest = root.gather(1, root.abs().argmax(1, keepdim=True))
        ahead = root.copysign(root * largest) @ signs[0].to(S)[:, :, None]
        return ahead[..., 0], (S @ signs[1].to(S)[:, :, None])[..., 0]


def _mean_gram(risk: EmpiricalRisk) -> Tensor | None:
    """The mean JJᵀ of a few examples of the first batch."""
    batch = next(iter(risk.batches))
    n = examples(batch)
    with risk.evaluating():
        f = risk.outputs(risk.few(batch, 1))
        most = min(_OUTPUTS, n * len(risk.batches) // (_SHARE * _SEEN))
        if f.dim() != 2 or not 1 < f.shape[1] <= most:
            return None
        total = torch.zeros(f.shape[1], f.shape[1], dtype=torch.float64)
        for i in range(0, n, max(1, n // _SEEN))[:_SEEN]:
            total += output_gram(risk.outputs(risk.rows(batch, [i]))[0], risk.leaves)
    return total if bool(total.isfinite().all()) else None
