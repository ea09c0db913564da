"""The parameter tensors by which alone a function has second derivatives.

Where a tensor's own block of the Hessian is 0 it has no part in the trace: as for all tensors of
networks of ReLU, pooling, convolutions and linear layers, and for the last layer of any network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def curved_tensors(
    value: Tensor, params: Mapping[str, Tensor], *, generator: torch.Generator, tolerance: float
) -> list[str]:
    """Every l for which (∇²value z_l)_l ≠ 0, for a Gaussian z_l confined to tensor l.

    z_l is as large as the tensor itself, and 0 means ≤ ``tolerance`` · ‖∂value/∂tensor‖. Costs a
    gradient or two for each layer.
    """
    if not value.requires_grad:
        return []
    tensors = list(params.values())
    gradients = torch.autograd.grad(value, tensors, create_graph=True, allow_unused=True)
    layers: dict[str, list[tuple[str, Tensor, Tensor]]] = {}
    for (name, w), g in zip(params.items(), gradients, strict=True):
        if g is not None and g.requires_grad:
            layers.setdefault(name.rpartition(".")[0], []).append((name, w, g))

    def vanish(block: Sequence[tuple[str, Tensor, Tensor]]) -> bool:
        z = [_as_large(w, generator) for _, w, _ in block]
        products = torch.autograd.grad(
            [g for *_, g in block],
            [w for _, w, _ in block],
            z,
            retain_graph=True,
            allow_unused=True,
        )
        return all(
            product is None or bool(product.norm() <= tolerance * g.detach().norm())
            for product, (*_, g) in zip(products, block, strict=True)
        )

    # what is 0 for a layer's weight and bias together is so for each of them
    return [
        own[0]
        for layer in layers.values()
        if not vanish(layer)
        for own in layer
        if len(layer) == 1 or not vanish([own])
    ]


def _as_large(w: Tensor, generator: torch.Generator) -> Tensor:
    scale = float(w.detach().square().mean().sqrt()) or 1.0
    return scale * torch.randn(w.shape, generator=generator, dtype=torch.float32).to(w)
