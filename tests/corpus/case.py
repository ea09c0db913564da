"""What a case is: a model, a loss and batches as people bring them, and what must come out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tests.conftest import seeded

f64 = torch.float64
Reference = Callable[[nn.Module], Tensor]


@dataclass(frozen=True)
class Case:
    """``reference`` writes the mean loss over all examples out by hand, given the model."""

    name: str
    model: Callable[[], nn.Module]
    loss: Any
    data: Any
    reference: Reference | None = None
    options: dict[str, Any] = field(default_factory=dict)
    refused: str = ""  # what the error says

    def build(self) -> nn.Module:
        """The model in float64, its parameters away from the special values they start with."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = self.model().double()
        generator = seeded(1)
        with torch.no_grad():
            for p in model.parameters():
                if isinstance(p, nn.parameter.UninitializedParameter):
                    continue
                p += 0.1 * torch.randn(p.shape, generator=generator, dtype=f64).to(p.dtype)
            for name, b in model.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    b += 0.2 * torch.rand(b.shape, generator=generator, dtype=f64).to(b.dtype)
        return model


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=f64)


def labels(*shape: int, classes: int = 3, seed: int = 5) -> Tensor:
    return torch.randint(classes, shape, generator=seeded(seed))


def uneven(*tensors: Tensor) -> list[Any]:
    """Batches of 3, 3 and 1."""
    parts = zip(*(t.split(3) for t in tensors), strict=True)
    return [part if len(part) != 2 else (part[0], part[1]) for part in parts]


def mean_cross_entropy(x: Any, y: Tensor) -> Reference:
    return lambda model: -model(x).log_softmax(1).gather(1, y[:, None]).mean()


def classifier(name: str, model: Callable[[], nn.Module], x: Tensor, **more: Any) -> Case:
    """Cross-entropy of seven examples in batches of 3, 3 and 1."""
    y = labels(len(x))
    return Case(name, model, "cross_entropy", uneven(x, y), mean_cross_entropy(x, y), **more)


VECTORS, IMAGES, SEQUENCES = randn(7, 4), randn(7, 2, 4, 4), randn(7, 5, 4)
TOKENS = labels(7, 5, classes=6)
Y = labels(7)
MASK = torch.ones(5, 5, dtype=torch.bool).tril()
