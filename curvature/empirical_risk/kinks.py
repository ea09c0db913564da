"""Whether a network's gradient jumps as the weights move: then differences of it mean nothing.

It doesn't where only smooth operations are seen. Elsewhere the gradient is taken on a grid along
random lines through w. Where neighbouring steps of it differ most, the step is halved again and
again towards the larger half. What is left after k halvings shrinks as 2⁻ᵏ where the gradient is
smooth; one jump stays, and many small ones add up as 2⁻ᵏᐟ².
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from curvature.derivatives.products import gradient
from curvature.derivatives.second_differences import moved_along
from curvature.derivatives.smooth_operations import smooth_by_operations
from curvature.empirical_risk.model import copy_of
from curvature.empirical_risk.nested import moved, tensors_in
from curvature.empirical_risk.risk import EmpiricalRisk

_LINES = 2
_POINTS = 17  # of the grid, on a line that moves each tensor by half of its own size either way
_LOOKED_INTO = 2  # intervals of a line
_HALVINGS = {torch.float64: 14, torch.float32: 7}
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4}  # of a gradient, relative
# Measured with 14 halvings: 1e-4 to 3e-4 is left of tanh, GELU, softplus, LayerNorm and attention,
# 1e-2 to 0.7 of ReLU networks, the least of a ResNet-20.
_RATE = 0.65


def has_kinks(risk: EmpiricalRisk, part: Any) -> bool:
    """Whether the gradient on these examples jumps somewhere near w.

    Costs one gradient where all operations seen in it are known to be smooth; elsewhere a forward
    pass and about 90 gradients in float64.
    """
    if _known_to_be_smooth(risk, part):
        return False
    try:
        return _jumps(risk, part, torch.float64)
    except RuntimeError:  # a kernel that knows no float64
        if risk.dtype == torch.float64:
            raise
        return _jumps(risk, part, risk.dtype)


def _known_to_be_smooth(risk: EmpiricalRisk, part: Any) -> bool:
    part = moved(part, risk.device, risk.dtype)
    constants = [*risk.model.parameters(), *risk.model.buffers(), *tensors_in(part)]
    with risk.evaluating():
        return smooth_by_operations(lambda: risk.loss_sum(part), risk.leaves, constants)


def _jumps(risk: EmpiricalRisk, part: Any, dtype: torch.dtype) -> bool:
    twin = EmpiricalRisk(
        copy_of(risk.model),
        risk.given_loss,
        [part],
        params=list(risk.params),
        dtype=dtype,
        mode=risk.mode,
    )
    part = moved(part, twin.device, twin.dtype)
    generator = torch.Generator().manual_seed(2)
    with twin.evaluating():
        return any(_Line(twin, part, generator).jumps() for _ in range(_LINES))


class _Line:
    """The gradient at w + tv, t from −1/2 to 1/2."""

    def __init__(self, risk: EmpiricalRisk, part: Any, generator: torch.Generator) -> None:
        self._risk, self._part = risk, part
        typical = float(risk.weights().square().mean().sqrt()) or 1.0
        self._v = [
            (float(w.detach().square().mean().sqrt()) or typical)
            * torch.randn(w.shape, generator=generator).to(w)
            for w in risk.leaves
        ]

    def jumps(self) -> bool:
        """Whether one of the most uneven intervals holds a jump."""
        delta = 1 / (_POINTS - 1)
        g = torch.stack([self._at(-0.5 + i * delta) for i in range(_POINTS)])
        steps = g.diff(dim=0)
        smooth = (steps[:-2] + steps[2:]) / 2  # what the neighbours say of the step between them
        uneven = (steps[1:-1] - smooth).norm(dim=1)
        floor = _ROUNDING[self._risk.dtype] * float(g.norm(dim=1).max())
        for i in uneven.argsort(descending=True)[:_LOOKED_INTO].tolist():
            if float(uneven[i]) <= floor:
                return False
            start = -0.5 + (i + 1) * delta
            left = self._left(start, delta, g[i + 1], g[i + 2], smooth[i] / delta)
            slope_leaves = 2.0 ** (-_RATE * _HALVINGS[self._risk.dtype]) * float(uneven[i])
            if left > max(slope_leaves, floor):
                return True
        return False

    def _left(self, t: float, width: float, a: Tensor, b: Tensor, slope: Tensor) -> float:
        """What is left of the unevenness between t and t + width, followed by halving."""
        found = 0.0
        for _ in range(_HALVINGS[self._risk.dtype]):
            width /= 2
            middle = self._at(t + width)
            lower = float((middle - a - slope * width).norm())
            upper = float((b - middle - slope * width).norm())
            found = max(lower, upper)
            if lower >= upper:
                b = middle
            else:
                t, a = t + width, middle
        return found

    def _at(self, t: float) -> Tensor:
        risk = self._risk
        with moved_along(risk.leaves, self._v, t), torch.enable_grad():
            return risk.flatten(gradient(risk.loss_sum(self._part), risk.leaves))
