"""The networks and images that are measured: the same weights, images and order for every tool."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from curvature import datasets, models
from curvature.datasets.batches import choose, fixed
from curvature.datasets.dataset import Dataset
from curvature.runs.checkpoint import load_checkpoint
from curvature.runs.loading import load_weights
from unit import BATCH

Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Subject:
    """A trained network in evaluation mode on fixed batches; ``smooth``: tr(H − G) isn't 0."""

    name: str
    title: str
    model: nn.Module
    batches: Batches
    smooth: bool = False

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @property
    def images(self) -> int:
        return sum(len(y) for _, y in self.batches)


@dataclass(frozen=True)
class _Known:
    title: str
    images: int
    model: str = ""  # where the file doesn't say it
    smooth: bool = False


CHECKPOINTS = {
    "resnet20": _Known("ResNet-20, PyHessian's checkpoint", 2048, "resnet20:shortcut=B"),
    "vgg19": _Known("VGG-19, width 1/8", 2048),
    "vit": _Known("ViT of the study's shape, width 64, MLP 128, depth 4", 2048, smooth=True),
}
DIGITS = "digits"


def load(
    name: str, *, cifar: Path | None, checkpoints: dict[str, Path], images: int | None
) -> Subject | None:
    """None where there is no checkpoint or no data for it."""
    if name == DIGITS:
        return digits(images or 360)
    if cifar is None or name not in checkpoints:
        return None
    known = CHECKPOINTS[name]
    data = datasets.load(f"cifar10:{cifar}", "test")
    found = load_checkpoint(checkpoints[name])
    spec = known.model or (found.config.model if found.config else name)
    model = models.build(spec, input_shape=data.input_shape, classes=10)
    load_weights(model, found.weights)
    generator = torch.Generator().manual_seed(0)
    chosen = choose(data, examples=images or known.images, generator=generator)
    if images not in (None, known.images):
        name = f"{name}@{images}"
    return _subject(name, known.title, model, chosen, smooth=known.smooth)


def digits(images: int) -> Subject:
    """A multilayer perceptron of 64 and 32 hidden units on handwritten digits, trained here."""
    model, data = _trained("mlp:hidden=32,depth=2", epochs=30)
    return _subject(DIGITS, "MLP on digits", model, data.select(slice(0, images)))


def tiny() -> Subject:
    """A small convolutional network, for a quick run."""
    model, data = _trained("cnn:width=4", epochs=2)
    return _subject("tiny", "small CNN on digits", model, data.select(slice(0, 200)))


def _trained(spec: str, *, epochs: int) -> tuple[nn.Module, Dataset]:
    """The network after some epochs of Adam on the training images, and the test images."""
    train, test = datasets.load("digits", "train"), datasets.load("digits", "test")
    generator = torch.Generator().manual_seed(0)
    model = models.build(spec, input_shape=train.input_shape, classes=10, generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for x, y in fixed(train, BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model, test


def _subject(
    name: str, title: str, model: nn.Module, data: Dataset, *, smooth: bool = False
) -> Subject:
    model.zero_grad(set_to_none=True)
    return Subject(name, title, model.eval(), list(fixed(data, BATCH)), smooth)
