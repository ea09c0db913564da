"""ResNets for CIFAR (He, Zhang, Ren & Sun 2016, "Deep residual learning", §4.2)."""

from collections.abc import MutableMapping
from itertools import pairwise
from typing import Any, Literal

from torch import Tensor, nn

from curvature.models.checks import at_least, image_shape
from curvature.models.initialization import he_normal

Shortcut = Literal["A", "B"]


class ResNet(nn.Module):
    """A 3×3 convolution, three stages of ``blocks`` residual blocks, the mean, a linear layer.

    State dicts that call `fc` `linear`, or `downsample` `shortcut`, load as well.
    """

    def __init__(
        self,
        blocks: int,
        *,
        input_shape: tuple[int, ...],
        classes: int,
        width: int,
        shortcut: Shortcut,
    ) -> None:
        super().__init__()
        channels, _, _ = image_shape(input_shape, "A ResNet")
        at_least(1, width=width)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(blocks, width, width, shortcut)
        self.layer2 = _stage(blocks, width, 2 * width, shortcut)
        self.layer3 = _stage(blocks, 2 * width, 4 * width, shortcut)
        self.fc = nn.Linear(4 * width, classes)
        he_normal(self)
        self.register_load_state_dict_pre_hook(_accept_other_names)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, channels, height, width)."""
        x = nn.functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class Block(nn.Module):
    """x ↦ relu(shortcut(x) + bn(conv(relu(bn(conv(x))))))."""

    def __init__(self, before: int, after: int, shortcut: Shortcut) -> None:
        super().__init__()
        stride = 1 if before == after else 2
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample = _shortcut(before, after, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, of half the sides where it has more channels than ``x``."""
        y = nn.functional.relu(self.bn1(self.conv1(x)))
        return nn.functional.relu(self.downsample(x) + self.bn2(self.conv2(y)))


class PadChannels(nn.Module):
    """Option A: every second pixel, zeros in the new channels, no parameters."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.front = (after - before) // 2
        self.back = after - before - self.front

    def forward(self, x: Tensor) -> Tensor:
        """Pixels 0, 2, 4, … of ``x``, its channels in the middle of the new ones."""
        return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.front, self.back))


def resnet20(
    *, input_shape: tuple[int, ...], classes: int, width: int = 16, shortcut: Shortcut = "A"
) -> ResNet:
    """ResNet-20 (0.27 M parameters); shortcut A pads with zeros, B is a 1×1 convolution."""
    return ResNet(3, input_shape=input_shape, classes=classes, width=width, shortcut=shortcut)


def resnet32(
    *, input_shape: tuple[int, ...], classes: int, width: int = 16, shortcut: Shortcut = "A"
) -> ResNet:
    """ResNet-32 (0.46 M parameters); shortcut A pads with zeros, B is a 1×1 convolution."""
    return ResNet(5, input_shape=input_shape, classes=classes, width=width, shortcut=shortcut)


def resnet56(
    *, input_shape: tuple[int, ...], classes: int, width: int = 16, shortcut: Shortcut = "A"
) -> ResNet:
    """ResNet-56 (0.85 M parameters); shortcut A pads with zeros, B is a 1×1 convolution."""
    return ResNet(9, input_shape=input_shape, classes=classes, width=width, shortcut=shortcut)


def _stage(blocks: int, before: int, after: int, shortcut: Shortcut) -> nn.Sequential:
    widths = [before] + [after] * blocks
    return nn.Sequential(*(Block(a, b, shortcut) for a, b in pairwise(widths)))


def _shortcut(before: int, after: int, shortcut: Shortcut) -> nn.Module:
    if shortcut not in ("A", "B"):
        raise ValueError(f"`shortcut` is A or B, not `{shortcut}`.")
    if before == after:
        return nn.Identity()
    if shortcut == "A":
        return PadChannels(before, after)
    return nn.Sequential(nn.Conv2d(before, after, 1, stride=2, bias=False), nn.BatchNorm2d(after))


def _accept_other_names(
    module: nn.Module, state_dict: MutableMapping[str, Any], prefix: str, *_: Any
) -> None:
    for key in [key for key in state_dict if key.startswith(prefix)]:
        name = key.removeprefix(prefix).replace(".shortcut.", ".downsample.")
        if name.startswith("linear."):
            name = name.replace("linear.", "fc.")
        state_dict[prefix + name] = state_dict.pop(key)
