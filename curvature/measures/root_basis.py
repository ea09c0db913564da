"""Signs ε_i for tr(J_iᵀΛ_iJ_i) = E‖J_iᵀS_iε_i‖² in a basis that makes their cross terms small.

Any S_iO_i with an orthogonal O_i is a root of Λ_i, too. The variance is 2 Σ_{a≠b} K_ab², K =
O_iᵀS_iᵀJ_iJ_iᵀS_iO_i: none where O_i makes K diagonal. Where J_iJ_iᵀ is much alike for all
examples but for its size, O_i comes from the mean over a few: a fifth of the variance on a vision
transformer. It isn't for every network (a ResNet-20 with a few confidently wrong images had more),
so each of the few is looked at in the basis of the others first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from curvature.derivatives.output_gram import output_gram
from curvature.empirical_risk import EmpiricalRisk
from curvature.empirical_risk.batches import examples

_SEEN = 4  # examples whose JJᵀ is looked at; 96 are hardly better
_CLEARLY = 0.5  # of the variance, that the few have in the others' basis, for it to be taken
_OUTPUTS = 32  # more would take more than they save
_SHARE = 4  # examples there must be for each gradient that is looked at


class RootBasis:
    """S_iO_i of every example; O_i = 1 where it is no better, outputs are many or examples few."""

    def __init__(self, risk: EmpiricalRisk) -> None:
        assert risk.loss is not None
        assert risk.loss.root_product is not None
        self._root = risk.loss.root_product
        self._gram = self._common_gram(risk)

    def vectors(self, f: Tensor, targets: Any, signs: Tensor) -> tuple[Tensor, Tensor]:
        """(S_iO_iε_i, S_iε'_i) for ``signs`` (2, *f's shape), ε and ε' of every example."""
        if self._gram is None:
            v, other = self._root(f, targets, signs)
            return v, other
        S = self.columns(f, targets)
        root = S @ _basis(S, self._gram.to(S))
        # rounding mustn't turn a column around: the same signs would be another draw
        largest = root.gather(1, root.abs().argmax(1, keepdim=True))
        ahead = root.copysign(root * largest) @ signs[0].to(S)[:, :, None]
        return ahead[..., 0], (S @ signs[1].to(S)[:, :, None])[..., 0]

    def columns(self, f: Tensor, targets: Any) -> Tensor:
        """S_i of every example, (n, C, C) in float64."""
        n, C = f.shape
        unit = torch.eye(C, dtype=f.dtype, device=f.device)
        return self._root(f, targets, unit[:, None, :].expand(C, n, C)).double().movedim(0, 2)

    def _common_gram(self, risk: EmpiricalRisk) -> Tensor | None:
        """The mean JJᵀ/tr(JJᵀ) of a few examples of the first batch, where it serves them."""
        batch = next(iter(risk.batches))
        n = examples(batch)
        with risk.evaluating():
            f = risk.outputs(risk.few(batch, 1))
            most = min(_OUTPUTS, n * len(risk.batches) // (_SHARE * _SEEN))
            if f.dim() != 2 or not 1 < f.shape[1] <= most:
                return None
            grams, roots = [], []
            for i in range(0, n, max(1, n // _SEEN))[:_SEEN]:
                part = risk.rows(batch, [i])
                f = risk.outputs(part)
                grams.append(output_gram(f[0], risk.leaves))
                roots.append(self.columns(f.detach(), part[1])[0].cpu())
        scaled = [gram / (float(gram.trace()) or 1.0) for gram in grams]
        common = torch.stack(scaled).sum(0)
        if not common.isfinite().all():
            return None
        as_it_is = turned = 0.0
        for S, gram, own in zip(roots, grams, scaled, strict=True):
            K = S.mT @ gram @ S
            Q = _basis(S, common - own)
            as_it_is += _cross_terms(K)
            turned += _cross_terms(Q.mT @ K @ Q)
        return common if turned < _CLEARLY * as_it_is else None


def _basis(S: Tensor, gram: Tensor) -> Tensor:
    Q: Tensor = torch.linalg.eigh(S.mT @ gram @ S)[1]
    return Q


def _cross_terms(K: Tensor) -> float:
    return float(K.square().sum() - K.diagonal().square().sum())
