"""Every bundled model at a size that a test can afford."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from curvature.models import build
from tests.conftest import seeded

CLASSES = 5


@dataclass(frozen=True)
class Case:
    spec: str
    input_shape: tuple[int, ...]

    def model(self, seed: int = 0) -> nn.Module:
        return build(
            self.spec, input_shape=self.input_shape, classes=CLASSES, generator=seeded(seed)
        )

    def batch(self, size: int = 3) -> tuple[Tensor, Tensor]:
        inputs = torch.randn(size, *self.input_shape, generator=seeded(1))
        return inputs, torch.randint(CLASSES, (size,), generator=seeded(2))


CASES = [
    Case("mlp:hidden=8,depth=3", (1, 8, 8)),
    Case("mlp:hidden=8,activation=tanh", (7,)),
    Case("mlp:depth=0", (2, 3)),
    Case("cnn:width=4", (1, 8, 8)),
    Case("cnn:width=3,activation=gelu", (3, 9, 6)),
    Case("resnet20:width=3", (3, 9, 8)),
    Case("resnet20:width=2,shortcut=B", (1, 8, 8)),
    Case("resnet32:width=2", (3, 8, 8)),
    Case("resnet56:width=2", (3, 8, 8)),
    Case("vgg11:width=0.05", (1, 32, 40)),
    Case("vgg16:width=0.05", (3, 64, 64)),
    Case("vgg19:width=0.05", (3, 32, 32)),
    Case("vgg19:width=0.05,batchnorm=false", (3, 32, 32)),
    Case("vit_small:width=12,depth=2,heads=3", (1, 8, 8)),
    Case("vit_small:width=12,depth=1,heads=2,mlp=20,patch=8,locality=true", (3, 16, 24)),
    Case("vit_study:width=8,depth=2,heads=2,mlp=8", (3, 12, 8)),
    Case("vit_study:width=8,depth=1,heads=1,mlp=8,locality=true", (3, 8, 8)),
]
for_each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.spec)


def count(model: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
