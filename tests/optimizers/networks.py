"""A small network with everything that a second pass can spoil, and its data."""

import torch
from torch import Tensor, nn

from curvature.optimizers import ClosureOptimizer, build

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
