"""Networks and data that a run names as module:factory."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curvature.datasets.dataset import Dataset


def noisy(classes: int = 10) -> nn.Module:
    """With what makes a resumed run go wrong: dropout and BatchNorm's running statistics."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(36, classes),
    )


class ShallowLine(nn.Module):
    """f(x) = w x, one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x


def line_data() -> tuple[Tensor, Tensor]:
    """y = 2x."""
    x = torch.linspace(-1, 1, 12)[:, None]
    return x, 2 * x


class FailsAtFour(nn.Module):
    """Its outputs are no numbers in the fourth training step, when BatchNorm has moved."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.linear(self.norm(x).flatten(1))
        assert self.norm.num_batches_tracked is not None
        fails = self.training and int(self.norm.num_batches_tracked) == 4
        return outputs * torch.nan if fails else outputs


def noise() -> tuple[Tensor, Tensor]:
    """400 random images of ten classes, there at once."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(400, 1, 8, 8, generator=generator), torch.arange(400) % 10


def grouped(split: str) -> Dataset:
    """Twelve images of two classes, of two kinds at two levels; kind b is mislabelled."""
    x = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(12) % 2
    kinds = torch.arange(12) // 6
    levels = torch.arange(12) % 3 % 2
    return Dataset(
        "grouped", x, y, 2, groups={"kind": (kinds, ("a", "b")), "level": (levels, ("1", "2"))}
    )


def whole(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """A loss that takes the model."""
    return F.cross_entropy(model(batch[0]), batch[1])


def split_list(split: str) -> list[tuple[Tensor, Tensor]]:
    """Batches, which can't be trained on."""
    return [line_data()]
