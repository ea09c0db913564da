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

    ``hessian_root(outputs, targets)`` gives S (N, C, K) with ω_i ∂²ℓ_i/∂f_i² = S_i S_iᵀ, and
    ``root_product(outputs, targets, u)`` S_i u_i for u (K, *outputs' shape) and a square S of its
    own choice, where there is a closed form. ``additive`` says that the sum over a batch is known
    to be the sum over its parts; of any other loss it is tested. ``structured``: it takes whatever
    the model returned, not only a tensor.
    """

    name: str
    sum: Callable[[Any, Any], Tensor]
    weight: Callable[[Any, Any], Tensor]
    hessian_root: Callable[[Tensor, Tensor], Tensor] | None = None
    reduction: Reduction = "mean"
    additive: bool = False
    root_product: Callable[[Tensor, Any, Tensor], Tensor] | None = None
    structured: bool = False

    def gradient(self, outputs: Tensor, targets: Any) -> Tensor:
        """∂(Σ_i ω_i ℓ_i)/∂f, in the shape of ``outputs``; the outputs are held fixed."""
        f = outputs.detach().requires_grad_()
        with torch.enable_grad():
            value = self.sum(f, targets)
            if not value.requires_grad:
                return torch.zeros_like(f)
            (gradient,) = torch.autograd.grad(value, f, materialize_grads=True)
        return gradient
