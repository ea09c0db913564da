"""A convolution whose second derivative is made of convolutions of the ordinary size.

PyTorch computes the derivative of a convolution's gradient by convolutions whose kernel is a whole
feature map; on a CPU they take most of the time of a product with the Hessian.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Geometry = tuple[list[int], list[int], list[int], int]  # stride, padding, dilation, groups


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """The same as ``torch.nn.functional.conv2d`` and its kin, of batched inputs."""
    geometry: Geometry = (list(stride), list(padding), list(dilation), groups)
    y: Tensor = _Convolution.apply(x, weight, bias, geometry)  # type: ignore[no-untyped-call]
    return y


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, w)
        ctx.geometry = geometry
        return _forward(x, w, b, geometry)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Any:
        if g is None:
            return None, None, None, None
        wanted = list(ctx.needs_input_grad[:3])
        arguments = (g, *ctx.saved_tensors, ctx.geometry, wanted)
        return *_Backward.apply(*arguments), None  # type: ignore[no-untyped-call]


class _Backward(torch.autograd.Function):
    """(g, x, w) ↦ the gradients by x, w and the bias; bilinear in g and either x or w."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, w: Tensor, geometry: Geometry, wanted: list[bool]
    ) -> Any:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(g, x, w)
        ctx.geometry = geometry
        return _gradients(g, x, w, geometry, wanted)

    @staticmethod
    def backward(ctx: Any, u: Tensor | None, v: Tensor | None, c: Tensor | None) -> Any:
        """``u``, ``v``, ``c``: cotangents of the gradients by x, w and the bias."""
        g, x, w = ctx.saved_tensors
        by_g = by_x = by_w = None
        if ctx.needs_input_grad[0]:
            by_g = _tangent(x, w, u, v, c, ctx.geometry)
        if ctx.needs_input_grad[1] and v is not None:
            by_x = _gradients(g, x, v, ctx.geometry, [True, False, False])[0]
        if ctx.needs_input_grad[2] and u is not None:
            by_w = _gradients(g, u, w, ctx.geometry, [False, True, False])[1]
        return by_g, by_x, by_w, None, None


def _tangent(
    x: Tensor, w: Tensor, u: Tensor | None, v: Tensor | None, c: Tensor | None, geometry: Geometry
) -> Tensor | None:
    """The outputs' change as x, w and the bias change by u, v and c."""
    if u is not None and v is not None:
        if geometry[-1] == 1:  # one convolution instead of two, over twice the channels
            return _forward(torch.cat([u, x], 1), torch.cat([w, v], 1), c, geometry)
        return _forward(u, w, None, geometry) + _forward(x, v, c, geometry)
    if u is not None:
        y = _forward(u, w, None, geometry)
        return y if c is None else y + c.view(-1, *[1] * (y.ndim - 2))
    if v is None and c is not None:
        v = torch.zeros_like(w)
    return None if v is None else _forward(x, v, c, geometry)


def _forward(x: Tensor, w: Tensor, b: Tensor | None, geometry: Geometry) -> Tensor:
    stride, padding, dilation, groups = geometry
    y: Tensor = torch.ops.aten.convolution(
        x, w, b, stride, padding, dilation, False, [0] * len(stride), groups
    )
    return y


def _gradients(g: Tensor, x: Tensor, w: Tensor, geometry: Geometry, wanted: list[bool]) -> Any:
    stride, padding, dilation, groups = geometry
    none = [0] * len(stride)
    return torch.ops.aten.convolution_backward(
        g, x, w, [len(w)], stride, padding, dilation, False, none, groups, wanted
    )
