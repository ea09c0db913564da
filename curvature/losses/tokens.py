"""The loss of a language model: cross-entropy of each token by the outputs at the one before."""

from __future__ import annotations

import torch
from torch import Tensor

from curvature.losses.bundled import cross_entropy
from curvature.losses.loss import Loss, Reduction


def next_token(*, ignore_index: int = -100, reduction: Reduction = "mean") -> Loss:
    """Logits (N, T, V) at t against the labels (N, T) at t + 1, a mean over the labels that count.

    What Hugging Face's causal language models return as ``.loss``, if a batch is all there is.
    """
    plain = cross_entropy(ignore_index=ignore_index, reduction=reduction)
    product = plain.root_product
    assert product is not None

    def sum_(outputs: Tensor, targets: Tensor) -> Tensor:
        return plain.sum(*_shifted(outputs, targets))

    def weight(outputs: Tensor, targets: Tensor) -> Tensor:
        return plain.weight(*_shifted(outputs, targets))

    def root_product(outputs: Tensor, targets: Tensor, u: Tensor) -> Tensor:
        u_shifted = u[:, :, :-1].flatten(1, 2)
        Su = torch.zeros_like(u)
        Su[:, :, :-1] = product(*_shifted(outputs, targets), u_shifted).view_as(u[:, :, :-1])
        return Su

    return Loss(
        "next_token", sum_, weight, reduction=reduction, additive=True, root_product=root_product
    )


def _shifted(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if outputs.ndim != 3 or outputs.shape[:2] != targets.shape:
        raise ValueError(
            "`next_token` needs logits (N, T, V) and labels (N, T), got "
            f"{tuple(outputs.shape)} and {tuple(targets.shape)}. The labels are the input tokens "
            "themselves, -100 where they are padding; the loss shifts them."
        )
    return outputs[:, :-1].flatten(0, 1), targets[:, 1:].flatten()
