"""Cross-entropy of language models: over tokens that are not padding, batches weighed by them."""

from __future__ import annotations

import torch
from torch import Tensor

from curvature.losses.bundled import cross_entropy
from curvature.losses.loss import Loss, Reduction

_SHIFTED = (
    " The labels are the input tokens themselves, -100 where they are padding; the loss shifts "
    "them."
)


def next_token(*, ignore_index: int = -100, reduction: Reduction = "mean") -> Loss:
    """Cross-entropy of logits (N, T, C) at t and labels (N, T) at t + 1, as of causal models."""
    return _of_tokens("next_token", 1, ignore_index, reduction)


def each_token(*, ignore_index: int = -100, reduction: Reduction = "mean") -> Loss:
    """Cross-entropy of logits (N, T, C) and labels (N, T) at the same t, as of masked models."""
    return _of_tokens("each_token", 0, ignore_index, reduction)


def _of_tokens(name: str, shift: int, ignore_index: int, reduction: Reduction) -> Loss:
    plain = cross_entropy(ignore_index=ignore_index)
    assert plain.root_product is not None
    root_product = plain.root_product

    def logits(outputs: Tensor, targets: Tensor) -> Tensor:
        """(N, C, T − shift)."""
        if outputs.ndim != 3 or outputs.shape[:2] != targets.shape:
            raise ValueError(
                f"`{name}` needs logits (N, T, V) and labels (N, T), got {tuple(outputs.shape)} "
                f"and {tuple(targets.shape)}.{_SHIFTED * shift}"
            )
        return outputs[:, : outputs.shape[1] - shift].movedim(-1, 1)

    def labels(targets: Tensor) -> Tensor:
        return targets[:, shift:]

    def sum_(outputs: Tensor, targets: Tensor) -> Tensor:
        return plain.sum(logits(outputs, targets), labels(targets))

    def weight(outputs: Tensor, targets: Tensor) -> Tensor:
        return plain.weight(outputs, labels(targets))

    def product(outputs: Tensor, targets: Tensor, u: Tensor) -> Tensor:
        seen = u.shape[2] - shift
        Su = root_product(logits(outputs, targets), labels(targets), u[:, :, :seen].movedim(-1, 2))
        unseen = torch.zeros_like(u[:, :, seen:], dtype=outputs.dtype)
        return torch.cat([Su.movedim(2, -1), unseen], 2)

    return Loss(name, sum_, weight, None, reduction, additive=True, root_product=product)
