"""What the adapters share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

Batches = list[tuple[Tensor, Tensor]]
Product = Callable[[Tensor], Tensor]


@dataclass
class Eigen:
    """What a tool returned, and its value after each product where it tells."""

    value: float
    products: int
    history: list[float] = field(default_factory=list)
    second: float | None = None


def split(v: Tensor, model: nn.Module) -> list[Tensor]:
    params = [p for p in model.parameters() if p.requires_grad]
    pieces = torch.split(v, [p.numel() for p in params])
    return [piece.view_as(p) for piece, p in zip(pieces, params, strict=True)]


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])
