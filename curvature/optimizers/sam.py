"""Sharpness-aware minimization (Foret et al. 2021) and its adaptive form (Kwon et al. 2021)."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from curvature.optimizers import vectors
from curvature.optimizers.based import Based


class SAM(Based):
    """ε = ρ g/‖g‖₂, g = ∇L(w); then a step of ``base`` from w with ∇L(w + ε). Two gradients.

    ``adaptive``: ε = ρ w²⊙g / ‖w⊙g‖₂ (ASAM), which scaling a layer's weights leaves unchanged.
    One norm runs over all groups; each may have its own ``rho`` (0: not perturbed). The base
    adds weight decay to the second gradient, at w; g is the gradient of L alone.
    """

    def __init__(
        self, base: Optimizer, rho: float = 0.05, *, adaptive: bool = False, **common: Any
    ) -> None:
        if not rho >= 0:
            raise ValueError(f"`rho` must not be negative, got {rho}.")
        super().__init__(base, {"rho": rho, "adaptive": adaptive}, **common)

    def _step(self, closure: Any) -> Any:
        assert self.base is not None
        if closure is None:
            raise ValueError(
                "SAM needs the gradient at two points: call `step(closure)` with a closure that "
                "computes the loss of the mini-batch, calls backward and returns it."
            )
        weights = self._weights()
        loss = self._call(closure)
        norm = vectors.norm(vectors.gradients(weights))
        self._require_finite(loss, norm, 1)
        with vectors.restored(weights):
            self._climb(norm)
            perturbed_loss = self._call(closure)
            perturbed_norm = self._settle()
        self._require_finite(perturbed_loss, perturbed_norm, 2)
        self.base.step()
        self._record(norm, 2, active="fixed", rho=float(self.param_groups[0]["rho"]))
        return loss

    def _climb(self, norm: Tensor) -> None:
        """W ← w + ε, with ε = 0 where the gradient is zero; uses ``.grad`` up."""
        groups = [
            [p for p in group["params"] if p.requires_grad and p.grad is not None]
            for group in self.param_groups
        ]
        length = norm
        if any(group["adaptive"] for group in self.param_groups):
            length = vectors.norm(
                [
                    p * p.grad if group["adaptive"] else p.grad
                    for group, weights in zip(self.param_groups, groups, strict=True)
                    for p in weights
                ]
            )
        for group, weights in zip(self.param_groups, groups, strict=True):
            if not weights:
                continue
            steps = vectors.gradients(weights)
            if group["adaptive"]:
                torch._foreach_mul_(steps, [p * p for p in weights])
            zero = torch.zeros_like(length)
            vectors.scale_(steps, torch.where(length > 0, group["rho"] / length, zero))
            torch._foreach_add_(weights, steps)
