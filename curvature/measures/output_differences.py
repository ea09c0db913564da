"""zᵀRz of a batch from its outputs at w + hz: two derivatives along z without autograd.

zᵀRz = 2 Σ_i r_iᵀ[f_i(w + hz) − f_i(w)] / h² − 2 gᵀz / h, with r_i = ∂ℓ_i/∂f_i held fixed and g the
gradient of the batch's loss. One forward pass; what h leaves is odd in z, so it has mean zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from curvature.derivatives.second_differences import difference
from curvature.empirical_risk import EmpiricalRisk
from curvature.linalg.operator import dot

_KEPT = 2**27  # numbers that the gradients of all batches may take
_STEPS = (1e-3, 3e-4, 3e-3, 1e-4, 1e-5)
_EVEN = 0.05  # error of both sides' mean, as a share of its deviation over the probes
_ODD = 0.25  # half the sides' difference, which only adds to the deviation


@dataclass(frozen=True)
class _Center:
    """f(w) and r of a batch, by its micro-batches; g where it is wanted."""

    outputs: Sequence[Tensor]
    r: Sequence[Tensor]
    g: Tensor | None


class OutputDifferences:
    """The differences of a risk's batches; ``step``: h, or None where none is right."""

    def __init__(self, risk: EmpiricalRisk) -> None:
        self.risk = risk
        self.step: float | None = None
        self.one_sided = risk.size * len(risk.batches) <= _KEPT
        self._centers: dict[int, _Center] = {}

    def settle(self, few: Any, probes: Sequence[Tensor], exact: Tensor) -> None:
        """The better of two h that give the ``exact`` zᵀRz of a ``few`` examples.

        More are tried where neither does; none is right on networks with kinks.
        """
        center = self._center(few)
        errors: dict[float, tuple[float, float]] = {}
        for h in _STEPS:
            pairs = [[self._side(few, z, s * h, center) for s in (1, -1)] for z in probes]
            ahead, behind = torch.tensor(pairs, dtype=torch.float64).T
            even = (ahead + behind) / 2 - exact
            rms = [float(e.square().mean().sqrt()) for e in (even, (ahead - behind) / 2)]
            errors[h] = (rms[0] if rms[0] < float("inf") else float("inf"), rms[1])
            best = min(errors, key=lambda h: errors[h][0])
            deviation = float(exact.std())
            if len(errors) > 1 and errors[best][0] <= _EVEN * deviation:
                self.step = best
                self.one_sided &= errors[best][1] <= _ODD * deviation
                return

    def form(self, index: int, batch: Any, z: Tensor) -> float:
        """zᵀRz of a batch."""
        assert self.step is not None
        if index not in self._centers:
            self._centers[index] = self._center(batch)
        center = self._centers[index]
        value = self._side(batch, z, self.step, center)
        return value if self.one_sided else (value + self._side(batch, z, -self.step, center)) / 2

    def by_example(self, index: int, batch: Any, z: Tensor) -> Tensor:
        """zᵀR_iz for each example i of a batch; their sum is ``form`` from both sides."""
        assert self.step is not None
        if index not in self._centers:
            self._centers[index] = self._center(batch)
        center = self._centers[index]
        sides = [self._moved(batch, z, s * self.step, center) for s in (1, -1)]
        return torch.cat(
            [
                ((a + b) * r).reshape(len(r), -1).sum(1).cpu()
                for a, b, r in zip(*sides, center.r, strict=True)
            ]
        ) * (self.risk.scale / self.step**2)

    def _side(self, batch: Any, z: Tensor, h: float, center: _Center) -> float:
        moved = self._moved(batch, z, h, center)
        total = sum(float((a * r).sum()) for a, r in zip(moved, center.r, strict=True))
        slope = float(dot(center.g, z)) if center.g is not None else 0.0
        return 2 * (total - h * slope) / h**2 * self.risk.scale

    def _moved(self, batch: Any, z: Tensor, h: float, center: _Center) -> list[Tensor]:
        risk = self.risk
        with risk.evaluating(), torch.no_grad():
            return difference(
                lambda: [risk.outputs(part) for part in risk.parts(batch)],
                risk.leaves,
                risk.split(z),
                h=h,
                center=center.outputs,
            )

    def _center(self, batch: Any) -> _Center:
        risk = self.risk
        assert risk.loss is not None
        outputs, r = [], []
        g = torch.zeros(risk.size, device=risk.device, dtype=risk.dtype) if self.one_sided else None
        with risk.evaluating(), torch.set_grad_enabled(self.one_sided):
            for part in risk.parts(batch):
                f = risk.outputs(part)
                outputs.append(f.detach())
                seeds = risk.loss.gradient(f.detach(), part[1])
                r.append(seeds.double())
                if g is not None:
                    g += risk.flatten(
                        torch.autograd.grad(f, risk.leaves, seeds, materialize_grads=True)
                    )
        return _Center(outputs, r, g)
