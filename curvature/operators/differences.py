"""Products with the Hessian of a smooth network by central differences of its gradient.

D(h) = [∇L(w + hv) − ∇L(w − hv)] / 2h, with its error cancelled to fourth order as
(4 D(h) − D(2h)) / 3 (Richardson 1911). Four gradients a product, and no second derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from curvature.derivatives.products import gradient
from curvature.derivatives.second_differences import moved_along
from curvature.empirical_risk import EmpiricalRisk
from curvature.empirical_risk.kinks import has_kinks
from curvature.linalg.operator import norm

_STEPS = (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4)  # of ε^(1/5) ‖w‖, tried on a few examples
_ENOUGH = {torch.float32: 1e-3, torch.float64: 1e-6}  # error at which no better step is looked for
_REFUSED = 0.02  # error from which on a product is none
_SMALLER = 4.0  # by this a step that is too long for a vector is shortened

_Parts = Callable[[], Iterator[Any]]


class Differences:
    """Products by differences; ``error`` is the largest so far, relative to the largest ‖Hv‖/‖v‖.

    The error of one product is estimated as ‖D(h) − D(2h)‖, both truncation and rounding.

    Raises:
        ValueError: if the network has kinks, or no step gives a product.
    """

    def __init__(self, risk: EmpiricalRisk, part: Any) -> None:
        self._risk = risk
        self._scale = self._gap = 0.0
        if has_kinks(risk, part):
            raise ValueError(
                "The gradient jumps as the weights move (ReLU, max-pooling, abs): differences of "
                "it are no product with the Hessian. Products by differences are for smooth "
                "networks; leave `differences` out, or put GELU or softplus in place of the kinks."
            )
        self._h = self._best_step(part)

    @property
    def error(self) -> float:
        """Of the products so far, relative to the largest eigenvalue met with."""
        return self._gap / self._scale if self._scale else 0.0

    @property
    def description(self) -> str:
        """For the record."""
        return f"central differences of the gradient, error {self.error:.0e}"

    def product(self, parts: _Parts, v: Sequence[Tensor]) -> list[Tensor]:
        """Hv over all ``parts``; a shorter step is taken where the usual one is too long for v."""
        length = float(norm(self._risk.flatten(v)))
        if not length:
            return [torch.zeros_like(p) for p in v]
        unit = [each / length for each in v]
        found, gap = self._richardson(parts, unit, self._h)
        h = self._h
        while gap > _ENOUGH[self._risk.dtype] * max(self._scale, float(norm(found))):
            h /= _SMALLER
            again, smaller = self._richardson(parts, unit, h)
            if smaller >= gap:
                break
            found, gap, self._h = again, smaller, h
        self._scale = max(self._scale, float(norm(found)))
        self._gap = max(self._gap, gap)
        if self.error > _REFUSED:
            raise ValueError(
                f"Products by differences have an error of {self.error:.1%} at the best step: the "
                f"network is too rough for {str(self._risk.dtype).removeprefix('torch.')}. Use "
                "`dtype` float64."
            )
        return self._risk.split(found * length)

    def _best_step(self, part: Any) -> float:
        risk = self._risk
        generator = torch.Generator().manual_seed(3)
        v = torch.randn(risk.size, generator=generator).to(risk.device, risk.dtype)
        unit = risk.split(v / norm(v))
        longest = torch.finfo(risk.dtype).eps ** 0.2 * (float(norm(risk.weights())) or 1.0)
        with risk.evaluating():
            tried = [
                (self._richardson(lambda: iter([part]), unit, h * longest)[1], h) for h in _STEPS
            ]
        return float(min(tried)[1] * longest)

    def _richardson(self, parts: _Parts, unit: list[Tensor], h: float) -> tuple[Tensor, float]:
        near, far = (self._central(parts, unit, each) for each in (h, 2 * h))
        return (4 * near - far) / 3, float(norm(near - far))

    def _central(self, parts: _Parts, unit: list[Tensor], h: float) -> Tensor:
        ahead, behind = (self._gradient(parts, unit, sign * h) for sign in (1, -1))
        return (ahead - behind) / (2 * h)

    def _gradient(self, parts: _Parts, unit: list[Tensor], h: float) -> Tensor:
        """Of the sum over all parts, at w + h · unit."""
        risk = self._risk
        total = torch.zeros(risk.size, dtype=risk.dtype, device=risk.device)
        with moved_along(risk.leaves, unit, h), torch.enable_grad():
            for part in parts():
                total += risk.flatten(gradient(risk.loss_sum(part), risk.leaves))
        return total
