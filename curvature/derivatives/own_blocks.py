"""Whether a function has no second derivatives by any single parameter tensor.

Then each tensor's own block of the Hessian is 0, and so is the trace: as for networks of ReLU,
pooling, convolutions and linear layers, which are piecewise linear in each tensor by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def own_blocks_vanish(
    value: Tensor, params: Sequence[Tensor], *, generator: torch.Generator, tolerance: float
) -> bool:
    """(∇²value z_l)_l = 0 for a Gaussian z_l confined to tensor l, for every l.

    z_l is as large as the tensor itself, and 0 means ≤ ``tolerance`` · ‖∂value/∂tensor‖. Costs
    about 1.5 gradients per tensor, and one in all where the first tensor already tells.
    """
    if not value.requires_grad:
        return True
    gradients = torch.autograd.grad(value, params, create_graph=True, allow_unused=True)
    for w, g in zip(params, gradients, strict=True):
        if g is None or not g.requires_grad:
            continue
        scale = float(w.detach().square().mean().sqrt()) or 1.0
        z = torch.randn(w.shape, generator=generator, dtype=torch.float32).to(w.device, w.dtype)
        (product,) = torch.autograd.grad(g, w, scale * z, retain_graph=True, allow_unused=True)
        if product is not None and not product.norm() <= tolerance * g.detach().norm():
            return False
    return True
