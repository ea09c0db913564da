"""Data, models and losses that would make a curvature wrong."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from tests.corpus.case import VECTORS, Y, uneven
from tests.corpus.losses import OMEGA
from tests.corpus.modules import wrap


class Augmented(Dataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 7

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return VECTORS[i] + 0.1 * torch.randn(4), Y[i]


class Emptying:
    """Re-iterable by its type, though a second pass finds nothing."""

    def __init__(self) -> None:
        self.left = uneven(VECTORS, Y)

    def __iter__(self):  # type: ignore[no-untyped-def]
        while self.left:
            yield self.left.pop(0)


class Shuffling:
    """Shuffles by itself, unseen by any sampler."""

    def __iter__(self):  # type: ignore[no-untyped-def]
        order = torch.randperm(7)
        yield from uneven(VECTORS[order], Y[order])


class Streaming(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self):  # type: ignore[no-untyped-def]
        yield from zip(VECTORS + 0.1 * torch.randn(7, 4), Y, strict=True)


class OwnBatchNorm(nn.Module):
    """F.batch_norm(training=True), whatever the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)
        self.register_buffer("mean", torch.zeros(5))
        self.register_buffer("var", torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(self.a(x), self.mean, self.var, training=True)
        out: Tensor = self.b(x)
        return out


def noisy_loss(f: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(f * (1 + 0.1 * torch.rand_like(f)), y, reduction="none")


def sum_of_all(f: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(f, y, reduction="sum")


def weighted(f: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(f, y, weight=OMEGA)


def mean_over_tokens(f: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(f.mT, y, ignore_index=-100)


def whole_sum(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")


def whole_mean_over_tokens(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return mean_over_tokens(model(batch[0]), batch[1])


def two_lengths(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1][: len(batch[0])])


def root_of_nothing(f: Tensor, y: Tensor) -> Tensor:
    return ((f - f.detach()) ** 2).sum(1).sqrt() + 0 * f.sum(1)


def batch_norm(**options: bool) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, **options), nn.Linear(5, 3))


def dropout(forward):  # type: ignore[no-untyped-def]
    return wrap(forward, a=lambda: nn.Linear(4, 5), b=lambda: nn.Linear(5, 3))
