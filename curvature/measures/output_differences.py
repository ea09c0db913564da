"""zᵀRz of some examples from their outputs at w + hz: two derivatives along z without autograd.

zᵀRz = 2 Σ_i r_iᵀ[f_i(w + hz) − f_i(w)] / h² − 2 gᵀz / h, with r_i = ∂ℓ_i/∂f_i held fixed and g the
gradient of their loss. One forward pass; what h leaves is odd in z, so it has mean zero. So has
what is subtracted of linear layers: half of the variance on a vision transformer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from curvature.derivatives.linear_layers import Held, LinearLayers
from curvature.derivatives.second_differences import moved_along
from curvature.empirical_risk import EmpiricalRisk
from curvature.linalg.operator import dot

_STEPS = (1e-3, 3e-4, 3e-3, 1e-4, 1e-5)
_EVEN = 0.05  # error of both sides' mean, as a share of its deviation over the probes
_ODD = 0.25  # half the sides' difference, which only adds to the deviation


@dataclass(frozen=True)
class Step:
    """h, and whether one side is enough."""

    h: float
    one_sided: bool


@dataclass(frozen=True)
class Center:
    """A micro-batch at w: f, r, and the gradients by what isn't in linear layers."""

    part: Any
    outputs: Tensor
    r: Tensor
    g: list[Tensor]
    held: Held


class OutputDifferences:
    """The differences of a risk's examples along z that is 0 but in the tensors ``names``.

    ``plain``: nothing but gᵀz is subtracted.
    """

    def __init__(
        self, risk: EmpiricalRisk, few: Any, names: Sequence[str], *, plain: bool = False
    ) -> None:
        self.risk = risk
        with risk.evaluating():
            part = next(risk.parts(few))
            self._layers = LinearLayers(
                risk.model, risk.params, lambda: risk.outputs(part), () if plain else names
            )
        self._rest = [
            i
            for i, name in enumerate(risk.params)
            if name in names and name not in self._layers.covered
        ]

    def settle(self, few: Sequence[Any], probes: Sequence[Tensor], exact: Tensor) -> Step | None:
        """The better of two h that give the ``exact`` zᵀRz of a ``few`` batches.

        More are tried where neither does. Where there are kinks, others may still be wrong.
        """
        centers = [center for batch in few for center in self.centers(batch)]
        errors: dict[float, tuple[float, float]] = {}
        for h in _STEPS:
            pairs = [[self._side(centers, z, s * h) for s in (1, -1)] for z in probes]
            ahead, behind = torch.tensor(pairs, dtype=torch.float64).T
            even = (ahead + behind) / 2 - exact
            rms = [float(e.square().mean().sqrt()) for e in (even, (ahead - behind) / 2)]
            errors[h] = (rms[0] if rms[0] < float("inf") else float("inf"), rms[1])
            best = min(errors, key=lambda h: errors[h][0])
            deviation = float(exact.std())
            if len(errors) > 1 and errors[best][0] <= _EVEN * deviation:
                return Step(best, errors[best][1] <= _ODD * deviation)
        return None

    def form(self, centers: Sequence[Center], z: Tensor, step: Step) -> float:
        """zᵀRz of the examples, less what has mean zero."""
        ahead = self._side(centers, z, step.h)
        return ahead if step.one_sided else (ahead + self._side(centers, z, -step.h)) / 2

    def centers(self, batch: Any) -> list[Center]:
        """What every probe of some examples needs, by their micro-batches."""
        risk = self.risk
        leaves = risk.leaves
        rest = [leaves[i] for i in self._rest]
        with risk.evaluating():
            return [self._center(part, rest) for part in risk.parts(batch)]

    def _center(self, part: Any, rest: list[Tensor]) -> Center:
        risk = self.risk
        assert risk.loss is not None
        gradient = risk.loss.gradient
        f, r, g, held = self._layers.hold(
            lambda: risk.outputs(part), rest, lambda f: gradient(f, part[1])
        )
        return Center(part, f.double(), r.double(), g, held)

    def _side(self, centers: Sequence[Center], z: Tensor, h: float) -> float:
        risk = self.risk
        tensors = risk.split(z)
        pieces: list[Tensor] = []
        with risk.evaluating(), torch.no_grad(), moved_along(risk.leaves, tensors, h):
            for center in centers:
                f, linear = self._layers.changed(partial(risk.outputs, center.part), center.held)
                pieces += [((f.double() - center.outputs) * center.r).sum(), -linear]
        for center in centers:
            for i, g in zip(self._rest, center.g, strict=True):
                pieces.append(-h * dot(g.reshape(-1), tensors[i].reshape(-1)))
        return 2 * float(torch.stack(pieces).sum()) / h**2 * risk.scale
