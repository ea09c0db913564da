"""ReLU and max-pooling whose second derivative is nothing, where PyTorch writes zeros down.

Each of these zeros is as large as a feature map; they are kept until the second backward pass comes
by again, and added there.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Size = int | list[int] | tuple[int, ...]


class PiecewiseLinear(TorchFunctionMode):
    """In the length of a ``with``, whoever calls ReLU or 2-d max-pooling gets those from here.

    Where pooling follows at once, nothing of the larger map is kept: the two can be interchanged.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last: tuple[Callable[[], Tensor | None], Tensor] | None = None  # ReLU: (output, x)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        last, self._last = self._last, None
        ours = _OURS.get(func)
        x = args[0] if args else None
        if ours is None or type(x) is not Tensor or not x.requires_grad:
            return func(*args, **kwargs or {})
        before = last[1] if last and last[0]() is x else None
        y = ours(before, *args, **kwargs or {})
        if ours is _relu and y is not x:
            self._last = weakref.ref(y), x
        return y


def _relu(_: Tensor | None, x: Tensor, inplace: bool = False) -> Tensor:
    y: Tensor = _ReLU.apply(x, inplace)  # type: ignore[no-untyped-call]
    return y


def _max_pool2d(
    before: Tensor | None,
    x: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
) -> Any:
    """``before`` is what x is the ReLU of, where it is that. With indices it's another function."""
    window = (kernel_size, stride or (), padding, dilation, ceil_mode)
    rectified = before is not None
    variable = before if rectified else x
    return _MaxPool.apply(variable, x.detach(), window, rectified)  # type: ignore[no-untyped-call]


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
        y = ctx.saved_tensors[0].detach()  # so that no path leads to it
        return _Masked.apply(g, y), None  # type: ignore[no-untyped-call]


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


def _masked(g: Tensor, y: Tensor | None) -> Tensor:
    return g if y is None else torch.ops.aten.threshold_backward(g, y, 0)


class _MaxPool(torch.autograd.Function):
    """Of ``values``, which are x or, if ``rectified``, its ReLU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, window: Sequence[Any], rectified: bool) -> Any:
        ctx.set_materialize_grads(False)
        y, where = torch.ops.aten.max_pool2d_with_indices(values, *window)
        where = where.to(torch.int32)  # places in a map; torch keeps 64 bits
        ctx.save_for_backward(y if rectified else None, where)
        ctx.geometry = values.shape, _layout(values), window
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Any:
        if g is None:
            return None, None, None, None
        y, where = ctx.saved_tensors
        constant = None if y is None else y.detach()
        spread = _Spread.apply(g, constant, where, ctx.geometry)  # type: ignore[no-untyped-call]
        return spread, None, None, None


class _Spread(torch.autograd.Function):
    """g at the places of the largest values, as far as these, y, are not 0; constant in y."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, y: Tensor | None, where: Tensor, geometry: Any) -> Any:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y, where)
        shape, layout, window = geometry
        like = torch.empty(shape, dtype=g.dtype, device=g.device, memory_format=layout)
        backward = torch.ops.aten.max_pool2d_with_indices_backward
        return backward(_masked(g, y), like, *window, where.long())

    @staticmethod
    def backward(ctx: Any, u: Tensor | None) -> Any:
        if u is None:
            return None, None, None, None
        y, where = ctx.saved_tensors
        found = u.flatten(-2).gather(-1, where.flatten(-2).long()).view(where.shape)
        return _masked(found, y), None, None, None


def _layout(x: Tensor) -> torch.memory_format:
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last and not x.is_contiguous() else torch.contiguous_format


_OURS: dict[Any, Callable[..., Any]] = {
    F.relu: _relu,
    torch.relu: _relu,
    Tensor.relu: _relu,
    F.max_pool2d: _max_pool2d,
    torch.max_pool2d: _max_pool2d,
}
