"""JJᵀ of one example's outputs: the inner products of their gradients by all parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_AT_ONCE = 2**26  # numbers of a Jacobian in memory at a time


def output_gram(outputs: Tensor, params: Sequence[Tensor]) -> Tensor:
    """JJᵀ (C, C) in float64 for ``outputs`` (C,); a backward pass for each output."""
    C = len(outputs)
    gram = torch.zeros(C, C, dtype=torch.float64)
    if not outputs.requires_grad:
        return gram
    for chunk in _chunks(params, _AT_ONCE // max(C, 1)):
        rows = [
            torch.autograd.grad(f, chunk, retain_graph=True, materialize_grads=True)
            for f in outputs
        ]
        J = torch.stack([torch.cat([g.reshape(-1) for g in row]) for row in rows])
        gram += (J @ J.mT).double().cpu()
    return gram


def _chunks(params: Sequence[Tensor], most: int) -> list[list[Tensor]]:
    chunks: list[list[Tensor]] = [[]]
    size = 0
    for p in params:
        if chunks[-1] and size + p.numel() > most:
            chunks.append([])
            size = 0
        chunks[-1].append(p)
        size += p.numel()
    return chunks
