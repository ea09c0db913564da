"""VGG for CIFAR (Simonyan & Zisserman 2015, with BatchNorm and a single linear layer at the end).

The names of the state dict (`features.{i}`, `classifier`) are those of the public CIFAR versions.
"""

import math

from torch import Tensor, nn

from curvature.models.checks import image_shape
from curvature.models.initialization import he_normal

_CHANNELS = (64, 128, 256, 512, 512)  # of the five stages; a pooling ends each


class VGG(nn.Module):
    """Stages of 3×3 convolutions (with a bias each), max-pooling, the mean over what is left."""

    def __init__(
        self,
        convolutions: tuple[int, ...],
        *,
        input_shape: tuple[int, ...],
        classes: int,
        width: float,
        batchnorm: bool,
    ) -> None:
        super().__init__()
        channels, _, _ = image_shape(input_shape, "A VGG", least=2 ** len(_CHANNELS))
        layers: list[nn.Module] = []
        for count, full in zip(convolutions, _CHANNELS, strict=True):
            for _ in range(count):
                scaled = _scaled(full, width)
                layers.append(nn.Conv2d(channels, scaled, 3, padding=1))
                if batchnorm:
                    layers.append(nn.BatchNorm2d(scaled))
                layers.append(nn.ReLU())
                channels = scaled
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, channels, height, width)."""
        features: Tensor = self.features(x)
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return logits


def vgg11(
    *, input_shape: tuple[int, ...], classes: int, width: float = 1.0, batchnorm: bool = True
) -> VGG:
    """VGG-11 for images of 32×32 or more; `width` multiplies its channels."""
    return VGG(
        (1, 1, 2, 2, 2), input_shape=input_shape, classes=classes, width=width, batchnorm=batchnorm
    )


def vgg16(
    *, input_shape: tuple[int, ...], classes: int, width: float = 1.0, batchnorm: bool = True
) -> VGG:
    """VGG-16 for images of 32×32 or more; `width` multiplies its channels."""
    return VGG(
        (2, 2, 3, 3, 3), input_shape=input_shape, classes=classes, width=width, batchnorm=batchnorm
    )


def vgg19(
    *, input_shape: tuple[int, ...], classes: int, width: float = 1.0, batchnorm: bool = True
) -> VGG:
    """VGG-19 for images of 32×32 or more (20.04 M parameters); `width` multiplies its channels."""
    return VGG(
        (2, 2, 4, 4, 4), input_shape=input_shape, classes=classes, width=width, batchnorm=batchnorm
    )


def _scaled(channels: int, width: float) -> int:
    if not (math.isfinite(width) and round(channels * width) >= 1):
        raise ValueError(f"`width` = {width:g} leaves a layer of {channels} without channels.")
    return round(channels * width)
