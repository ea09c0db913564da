"""A small network with everything that a second pass can spoil, and its data."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from curvature.optimizers import ClosureOptimizer, build, closure

RUNS = [
    ("sgd", "poster"),
    ("msgd", "poster"),
    ("adam", "poster"),
    ("sam", "poster"),
    ("sa-sgd", "poster"),
    ("sa-sam", "poster"),
    ("sa-sgd", "released"),
    ("sa-sam", "released"),
]
RUN_IDS = [f"{name}-{variant}" if name.startswith("sa-") else name for name, variant in RUNS]

for_each_run = pytest.mark.parametrize("run", RUNS, ids=RUN_IDS)
several_passes = pytest.mark.parametrize("run", RUNS[3:], ids=RUN_IDS[3:])
cross_entropy = nn.functional.cross_entropy


def network(seed: int = 0, *, dropout: float = 0.2, classes: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(dropout), nn.Linear(12, classes)
    )


def batch(step: int = 0, size: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(size, 6, generator=generator)
    return inputs, (inputs[:, :3] + 0.1).argmax(1)


def named(
    run: tuple[str, str], model: nn.Module, lr: float = 0.05, **more: object
) -> ClosureOptimizer:
    name, variant = run
    return build(name, model.parameters(), lr=lr, sa_variant=variant, **more)  # type: ignore[arg-type]


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().double().reshape(-1) for p in model.parameters()])


def step(optimizer: Any, model: nn.Module, number: int = 0) -> Any:
    return optimizer.step(closure(model, cross_entropy, [batch(number)]))


def backward(loss: Tensor) -> Tensor:
    loss.backward()
    return loss


def assert_same(a: Any, b: Any) -> None:
    """Equal, tensors bitwise."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        for left, right in zip(a, b, strict=True):
            assert_same(left, right)
    elif isinstance(a, Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b
