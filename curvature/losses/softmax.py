"""A root of Λ = diag(p) − ppᵀ, the Hessian of softmax cross-entropy by the logits."""

from __future__ import annotations

import torch
from torch import Tensor

_ROTATED = 64  # classes among which an eigenbasis is sought: a 64×64 matrix takes 0.2 ms


def softmax_root_product(logits: Tensor, u: Tensor) -> Tensor:
    """S u for u (K, N, C) in float64, SSᵀ = Λ, S = diag(√p)(I − √p√pᵀ)Q with Q orthogonal.

    Q makes the columns of S the scaled eigenvectors of Λ, exactly up to 64 classes; with more it
    rotates the most probable ones. That basis makes the least of the cross terms between signs.
    """
    p = logits.double().log_softmax(1).exp()
    root = p.sqrt()
    top = p.topk(min(_ROTATED, p.shape[1]), dim=1).indices
    p_top, root_top = p.gather(1, top), root.gather(1, top)
    # the block of (I − √p√pᵀ) diag(p) (I − √p√pᵀ) that belongs to the most probable classes
    cross = (root_top * p_top)[:, :, None] * root_top[:, None, :]
    total = p.square().sum(1)[:, None, None] * root_top[:, :, None] * root_top[:, None, :]
    _, Q = torch.linalg.eigh(torch.diag_embed(p_top) - cross - cross.mT + total)
    u = u.double()
    index = top.expand(len(u), -1, -1)
    rotated = (Q @ u.gather(2, index)[..., None])[..., 0]
    u = u.scatter(2, index, rotated)
    product: Tensor = root * u - p * (root * u).sum(2, keepdim=True)
    return product
