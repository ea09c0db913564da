"""Whether a function has no second derivatives by any single parameter tensor.

Then each tensor's own block of the Hessian is 0, and so is the trace: as for networks of ReLU,
pooling, convolutions and linear layers, which are piecewise linear in each tensor by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def own_blocks_vanish(
    value: Tensor, params: Mapping[str, Tensor], *, generator: torch.Generator, tolerance: float
) -> bool:
    """(∇²value z_l)_l = 0 for a Gaussian z_l confined to tensor l, for every l.

    z_l is as large as the tensor itself, and 0 means ≤ ``tolerance`` · ‖∂value/∂tensor‖. Costs
    1 to 2 gradients per layer, and that in all where the first tensor already tells.
    """
    if not value.requires_grad:
        return True
    tensors = list(params.values())
    gradients = torch.autograd.grad(value, tensors, create_graph=True, allow_unused=True)
    layers: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for (name, w), g in zip(params.items(), gradients, strict=True):
        if g is not None and g.requires_grad:
            layers.setdefault(name.rpartition(".")[0], []).append((w, g))

    def vanish(block: Sequence[tuple[Tensor, Tensor]]) -> bool:
        z = [_as_large(w, generator) for w, _ in block]
        products = torch.autograd.grad(
            [g for _, g in block], [w for w, _ in block], z, retain_graph=True, allow_unused=True
        )
        return all(
            product is None or bool(product.norm() <= tolerance * g.detach().norm())
            for product, (_, g) in zip(products, block, strict=True)
        )

    # what is 0 for a layer's weight and bias together is so for each of them
    return all(vanish(layer) or all(vanish([own]) for own in layer) for layer in layers.values())


def _as_large(w: Tensor, generator: torch.Generator) -> Tensor:
    scale = float(w.detach().square().mean().sqrt()) or 1.0
    return scale * torch.randn(w.shape, generator=generator, dtype=torch.float32).to(w)
