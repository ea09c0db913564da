"""ReLU and max-pooling whose second derivative is nothing, where PyTorch writes zeros down.

Each of these zeros is as large as a feature map; they are kept until the second backward pass comes
by again, and added there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Size = int | Sequence[int]


class PiecewiseLinear(TorchFunctionMode):
    """In the length of a ``with``, whoever calls ReLU or 2-d max-pooling gets those from here."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        ours = _OURS.get(func)
        x = args[0] if args else None
        if ours is None or type(x) is not Tensor or not x.requires_grad:
            return func(*args, **kwargs)
        return ours(*args, **kwargs)


def relu(x: Tensor, inplace: bool = False) -> Tensor:
    """The same as ``torch.nn.functional.relu``."""
    y: Tensor = _ReLU.apply(x, inplace)  # type: ignore[no-untyped-call]
    return y


def max_pool2d(
    x: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The same as ``torch.nn.functional.max_pool2d``."""
    window = (kernel_size, stride or (), padding, dilation, ceil_mode)
    if return_indices:
        return F.max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode, True)
    return _MaxPool.apply(x, window)  # type: ignore[no-untyped-call]


class _ReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, inplace: bool) -> Tensor:
        ctx.set_materialize_grads(False)
        if inplace:
            ctx.mark_dirty(x)
        y = torch.relu_(x) if inplace else torch.relu(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Any:
        if g is None:
            return None, None
        return _Masked.apply(g, ctx.saved_tensors[0]), None  # type: ignore[no-untyped-call]


class _Masked(torch.autograd.Function):
    """g where the ReLU's output y is not 0; constant in y."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, y: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y)
        return _masked(g, y)

    @staticmethod
    def backward(ctx: Any, u: Tensor | None) -> Any:
        return (None if u is None else _masked(u, ctx.saved_tensors[0])), None


def _masked(g: Tensor, y: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(g, y, 0)  # type: ignore[no-any-return]


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, window: Sequence[Any]) -> Tensor:
        ctx.set_materialize_grads(False)
        y, where = torch.ops.aten.max_pool2d_with_indices(x, *window)
        ctx.save_for_backward(x, where.to(torch.int32))  # of a map's places; torch keeps 64 bits
        ctx.window = window
        return y  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Any:
        if g is None:
            return None, None
        arguments = (g, *ctx.saved_tensors, ctx.window)
        return _Spread.apply(*arguments), None  # type: ignore[no-untyped-call]


class _Spread(torch.autograd.Function):
    """g at the places of the largest values; constant in x."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, where: Tensor, window: Sequence[Any]) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(where)
        backward = torch.ops.aten.max_pool2d_with_indices_backward
        return backward(g, x, *window, where.long())  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, u: Tensor | None) -> Any:
        if u is None:
            return None, None, None, None
        (where,) = ctx.saved_tensors
        found = u.flatten(-2).gather(-1, where.flatten(-2).long()).view(where.shape)
        return found, None, None, None


_OURS: dict[Any, Callable[..., Any]] = {
    F.relu: relu,
    torch.relu: relu,
    Tensor.relu: relu,
    F.max_pool2d: max_pool2d,
    torch.max_pool2d: max_pool2d,
}
