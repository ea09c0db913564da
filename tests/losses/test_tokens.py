"""Losses of language models: over tokens that count, against torch.nn and dense Hessians."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from curvature.losses import as_loss
from tests.corpus.case import labels, randn

N, T, C = 3, 4, 5
OUTPUTS = 2 * randn(N, T, C)
LABELS = labels(N, T, classes=C).masked_fill(torch.tensor([[0, 0, 0, 1]] * 2 + [[1] * 4]) > 0, -100)


def by_hand(name: str, outputs: Tensor, targets: Tensor) -> Tensor:
    if name == "next_token":
        outputs, targets = outputs[:, :-1], targets[:, 1:]
    losses = [
        F.cross_entropy(f, y)
        for f, y in zip(outputs.flatten(0, 1), targets.flatten(), strict=True)
        if y != -100
    ]
    return torch.stack(losses).mean()


names = pytest.mark.parametrize("name", ["next_token", "each_token"])


@names
def test_the_mean_is_over_tokens_that_count(name: str) -> None:
    loss = as_loss(name)
    mean = loss.sum(OUTPUTS, LABELS) / loss.weight(OUTPUTS, LABELS)
    torch.testing.assert_close(mean, by_hand(name, OUTPUTS, LABELS))
    parts = [(OUTPUTS[:1], LABELS[:1]), (OUTPUTS[1:], LABELS[1:])]
    for quantity in (loss.sum, loss.weight):
        torch.testing.assert_close(
            sum(quantity(*part) for part in parts), quantity(OUTPUTS, LABELS)
        )
    assert not float(loss.weight(OUTPUTS[2:], LABELS[2:]))


@names
def test_its_root_squares_to_its_hessian(name: str) -> None:
    loss = as_loss(name)
    assert loss.root_product is not None
    for i in range(N):
        f, y = OUTPUTS[i : i + 1], LABELS[i : i + 1]
        units = torch.eye(T * C, dtype=f.dtype).view(T * C, 1, T, C)
        S = loss.root_product(f, y, units).reshape(T * C, T * C).T
        H = torch.autograd.functional.hessian(lambda f, y=y: loss.sum(f, y), f).reshape(S.shape)
        torch.testing.assert_close(S @ S.T, H)


@names
def test_other_shapes_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"needs logits \(N, T, V\) and labels \(N, T\)"):
        as_loss(name).sum(OUTPUTS[:, 0], LABELS[:, 0])
