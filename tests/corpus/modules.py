"""Modules that the cases are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Wrap(nn.Module):
    """A module of these parts with a given forward pass."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self._forward = forward

    def forward(self, *args: Any) -> Any:
        return self._forward(self, *args)


def wrap(forward: Callable[..., Any], **parts: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: Wrap(forward, **{name: part() for name, part in parts.items()})


def mlp(act: Callable[[], nn.Module] = nn.Tanh) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(4, 5), act(), nn.Linear(5, 3))


def convnet(*middle: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), *(make() for make in middle), nn.Flatten(), nn.LazyLinear(3)
    )


def built(make: Callable[[], nn.Module], example: Tensor) -> Callable[[], nn.Module]:
    """The model after a first call, its lazy parts initialised."""

    def build() -> nn.Module:
        model = make().eval()
        model(example.float())
        return model

    return build


def frozen_first(model: nn.Module) -> nn.Module:
    for p in model[0].parameters():  # type: ignore[index]
        p.requires_grad_(False)
    return model


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.b(torch.tanh(self.a(x)))))
        return out


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.never, self.net = nn.Linear(2, 2), mlp()()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


class SeveralDtypes(nn.Module):
    """A float32 body and a float64 head."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 5), nn.Linear(5, 3).double()

    def double(self) -> nn.Module:
        return self

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.body(x)).double())
        return out


class OneParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.a * x)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.rnn = kind(4, 3, batch_first=True, **options)
        self.head = nn.Linear(3 * (1 + options.get("bidirectional", False)), 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.rnn(x)[0].mean(1))
        return out


class Attention(nn.Module):
    """F.scaled_dot_product_attention with a mask of one's own."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.qkv, self.head, self.options = nn.Linear(4, 12), nn.Linear(4, 3), options

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        out: Tensor = self.head(F.scaled_dot_product_attention(q, k, v, **self.options).mean(1))
        return out


class PaddedEncoder(nn.Module):
    """Averages over padding too, for which the fast path of inference gives other numbers."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 6, activation="gelu", batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        padding = (x == 0).all(-1)
        out: Tensor = self.head(self.encoder(x, src_key_padding_mask=padding).mean(1))
        return out


class Checkpointed(nn.Module):
    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh())
        self.head = nn.Linear(5, 3)
        self.use_reentrant = use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=self.use_reentrant)
        out: Tensor = self.head(x)
        return out

    def plain(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layers(x))
        return out


def autocast_inside() -> nn.Module:
    """Its own autocast, which the reference's float64 is above."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            out: Tensor = m.get_submodule("net")(x)
        return out

    return Wrap(forward, net=mlp()())


class Square(torch.autograd.Function):
    """x² with a right backward, or one that is wrong in a way that people write."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * g


class SquareInFloat32(Square):
    """As a kernel that was written for float32 alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise RuntimeError("expected scalar type Float")
        ctx.save_for_backward(x)
        return x**2


class SquareOnce(Square):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * g


class SquareDetached(Square):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0].detach() * g


class SquareWrong(Square):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] * g


class SquareRolled(Square):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0].roll(1, -1) * g


def with_function(function: type[torch.autograd.Function]) -> Callable[[], nn.Module]:
    return wrap(
        lambda m, x: m.b(function.apply(m.a(x))),
        a=lambda: nn.Linear(4, 5),
        b=lambda: nn.Linear(5, 3),
    )
