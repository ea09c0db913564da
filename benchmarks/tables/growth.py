"""How our cost grows with the number of images, parameters and classes: one thing at a time."""

from functools import partial
from typing import Any

import torch
from torch import nn

from curvature import models
from peers import ours
from results import Results
from subjects import Batches
from unit import BATCH, interleaved, unit

BASE = {"images": 512, "width": 8, "classes": 10}
SWEEPS = {
    "images": (128, 512, 2048),
    "width": (4, 8, 16, 32),  # of the stages of a ResNet-20
    "classes": (10, 100, 1000),
}

QUICK = {"width": (1,)}


def measure(results: Results, *, quick: bool) -> None:
    sweeps = QUICK if quick else SWEEPS
    base = BASE | {"images": 16} if quick else BASE
    for what, values in sweeps.items():
        for value in values:
            settings = base | {what: value, "rtol": 0.1 if quick else 0.01}
            results.part(f"growth/{what}/{value}", partial(_point, **settings))


def _point(images: int, width: int, classes: int, rtol: float) -> dict[str, Any]:
    """A ResNet-20 after a few steps on random images of as many classes: its own gradient is 1."""
    generator = torch.Generator().manual_seed(0)
    model = models.build(
        f"resnet20:width={width}", input_shape=(3, 32, 32), classes=classes, generator=generator
    )
    x = torch.randn(images, 3, 32, 32, generator=generator)
    y = torch.randint(classes, (images,), generator=generator)
    batches = list(zip(x.split(BATCH), y.split(BATCH), strict=True))
    _train(model, batches)
    model.eval()
    v = ours.vector(sum(p.numel() for p in model.parameters()), 0)
    H = ours.hessian(model, batches)
    H @ v
    runs = interleaved(
        {
            "product": lambda: H @ v,
            "trace": lambda: ours.trace(model, batches, 0, rtol=rtol),
            "eigmax": lambda: ours.eigmax(model, batches, 0),
        },
        lambda: unit(model, batches),
        rounds=1,
    )
    return {"parameters": len(v), "runs": runs}


def _train(model: nn.Module, batches: Batches) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model.train()
    for step in range(8):
        x, y = batches[step % len(batches)]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.zero_grad(set_to_none=True)
