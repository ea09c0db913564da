"""Small networks in float64 on which tools go wrong; the loss is cross-entropy for all."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from subjects import Batches


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[], nn.Module]
    sizes: tuple[int, ...] = (4, 4)  # of the batches
    shape: tuple[int, ...] = (4,)
    scale: float = 1.0  # of the weights
    seed: int = 0

    def model(self) -> nn.Module:
        torch.manual_seed(self.seed)
        model = self.build().double()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p), alpha=0.3).mul_(self.scale)
            for name, buffer in model.named_buffers():
                if buffer.is_floating_point():
                    buffer.copy_(torch.rand_like(buffer) + 0.5 * ("var" in name))
        return model.eval()

    def batches(self) -> Batches:
        generator = torch.Generator().manual_seed(self.seed + 1)
        return [
            (
                torch.randn(n, *self.shape, generator=generator, dtype=torch.float64),
                torch.randint(3, (n,), generator=generator),
            )
            for n in self.sizes
        ]


class _Attention(nn.Module):
    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.qkv, self.out, self.fused = nn.Linear(3, 9), nn.Linear(3, 3), fused

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        if self.fused:
            y = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        else:
            y = (q @ k.mT / 3**0.5).softmax(-1) @ v
        return self.out(y.mean(1))


class _Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(4, 3), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x).tanh()


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(x).tanh()).tanh())


def _mlp(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), *between, nn.Tanh(), nn.Linear(5, 3))


def _convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, bias=False),
        nn.BatchNorm2d(2),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def _saddle() -> nn.Sequential:
    """Confident and wrong at large weights: Λ is small and H − G large, with a negative end."""
    return nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 3, bias=False))


class _Even(nn.Linear):
    """Softmax regression at w = 0: H = XᵀX/N ⊗ (I/3 − 11ᵀ/9), whose eigenvalues are double."""

    def __init__(self) -> None:
        super().__init__(4, 3, bias=False)


CASES = (
    Case("LayerNorm with weights", lambda: _mlp(nn.LayerNorm(5))),
    Case("attention, written out", lambda: _Attention(fused=False), shape=(4, 3)),
    Case("attention, fused", lambda: _Attention(fused=True), shape=(4, 3)),
    Case("BatchNorm in evaluation mode", _convolutional, shape=(1, 4, 4)),
    Case("uneven last batch", _mlp, sizes=(4, 4, 1)),
    Case("parameter not used", _Unused),
    Case("tied weights", _Tied),
    Case("dominant negative eigenvalue", _saddle, scale=3.0, seed=8),
    Case("double top eigenvalue", _Even, scale=0.0),
)
