"""Losses as sums over examples: what curvature needs to know of ℓ(f, y), apart from the network.

A batch contributes ``sum`` = Σ_i ω_i ℓ(f_i, y_i) and ``weight`` = Σ_i ω_i, where ω counts examples,
tokens that are not padding, or class weights: so batches of any size add up to the same mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Reduction = Literal["mean", "sum"]


@dataclass(frozen=True)
class Loss:
    """ℓ through its sum over a batch and the weight of that batch.

    ``hessian_root(outputs, targets)`` gives S (N, C, K) with ω_i ∂²ℓ_i/∂f_i² = S_i S_iᵀ,
    where there is a closed form.
    """

    name: str
    sum: Callable[[Any, Any], Tensor]
    weight: Callable[[Any, Any], Tensor]
    hessian_root: Callable[[Tensor, Tensor], Tensor] | None = None
    reduction: Reduction = "mean"

    def gradient(self, outputs: Tensor, targets: Any) -> Tensor:
        """∂(Σ_i ω_i ℓ_i)/∂f, in the shape of ``outputs``; the outputs are held fixed."""
        f = outputs.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self.sum(f, targets), f, allow_unused=True)
        return torch.zeros_like(f) if gradient is None else gradient

    def hessian_product(self, outputs: Tensor, targets: Any, u: Tensor) -> Tensor:
        """ΛU for U in the shape of ``outputs``, Λ = ∂²(Σ_i ω_i ℓ_i)/∂f² block by block."""
        f = outputs.detach().requires_grad_()
        with torch.enable_grad():
            (g,) = torch.autograd.grad(
                self.sum(f, targets), f, create_graph=True, materialize_grads=True
            )
            if not g.requires_grad:
                return torch.zeros_like(f)
            (product,) = torch.autograd.grad(g, f, u, materialize_grads=True)
        return product
