"""A convolution whose second derivative is made of convolutions of the ordinary size.

PyTorch computes the derivative of a convolution's gradient by convolutions whose kernel is a whole
feature map; on a CPU they take most of the time of a product with the Hessian.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_AT_A_TIME = 2**21  # numbers that are added to a feature map

Geometry = tuple[list[int], list[int], list[int], int]  # stride, padding, dilation, groups


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    *,
    scale: Tensor | None = None,
    apart: bool = False,
) -> Tensor:
    """The same as ``torch.nn.functional.conv2d`` and its kin, of batched inputs.

    ``scale`` (channels out,) multiplies the weight; the product is formed anew where it is used,
    so that no graph holds as many numbers as there are weights once more. ``apart``: the graph of
    the gradient by x doesn't lead to x, on which it doesn't depend; a product takes more memory.
    """
    geometry: Geometry = (list(stride), list(padding), list(dilation), groups)
    arguments = (x, weight, bias, scale, geometry, apart)
    y: Tensor = _Convolution.apply(*arguments)  # type: ignore[no-untyped-call]
    return y


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w: Tensor,
        b: Tensor | None,
        s: Tensor | None,
        geometry: Geometry,
        apart: bool,
    ) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, w, s)
        ctx.geometry, ctx.apart = geometry, apart
        return _forward(x, _scaled(w, s), b, geometry)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Any:
        if g is None:
            return None, None, None, None, None, None
        x, w, s = ctx.saved_tensors
        by_x, *others = ctx.needs_input_grad[:4]

        def gradients(x: Tensor, *wanted: bool) -> Any:
            arguments = (g, x, w, s, ctx.geometry, list(wanted))
            return _Backward.apply(*arguments)  # type: ignore[no-untyped-call]

        if not (ctx.apart and by_x and any(others)):
            return *gradients(x, by_x, *others), None, None
        first = gradients(x.detach(), True, False, False, False)[0]
        return first, *gradients(x, False, *others)[1:], None, None


class _Backward(torch.autograd.Function):
    """(g, x, w, s) ↦ the gradients by x, w, the bias and s; with w̃ = s w bilinear in g and x, w̃."""

    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        w: Tensor,
        s: Tensor | None,
        geometry: Geometry,
        wanted: list[bool],
    ) -> Any:
        ctx.set_materialize_grads(False)
        ctx.geometry = geometry
        by_x, by_w, by_b, by_s = wanted
        if s is None:
            ctx.save_for_backward(g, x, w, None, None)
            return *_gradients(g, x, w, geometry, [by_x, by_w, by_b]), None
        wanted = [by_x, by_w or by_s, by_b]
        found_x, found_w, found_b = _gradients(g, x, _scaled(w, s), geometry, wanted)
        ctx.save_for_backward(g, x, w, s, found_w)
        return (
            found_x,
            _scaled(found_w, s) if by_w else None,
            found_b,
            _per_channel(found_w, w) if by_s else None,
        )

    @staticmethod
    def backward(
        ctx: Any, u: Tensor | None, v: Tensor | None, c: Tensor | None, t: Tensor | None
    ) -> Any:
        """``u``, ``v``, ``c``, ``t``: cotangents of the gradients by x, w, the bias and s."""
        g, x, w, s, g_w = ctx.saved_tensors
        by_g = by_x = by_w = by_s = None
        change = _change(w, s, v, t)
        if ctx.needs_input_grad[1] and change is not None:
            by_x = _gradients(g, x, change, ctx.geometry, [True, False, False])[0]
        if u is not None and (ctx.needs_input_grad[2] or ctx.needs_input_grad[3]):
            by_w = _gradients(g, u, w, ctx.geometry, [False, True, False])[1]
        if ctx.needs_input_grad[0]:
            by_g = _tangent(x, _scaled(w, s), u, change, c, ctx.geometry)
        if s is not None:
            by_w, by_s = _unscaled(w, s, by_w, g_w, v, t)
        return by_g, by_x, by_w, by_s, None, None


def _scaled(w: Tensor, s: Tensor | None) -> Tensor:
    return w if s is None else w * _along(s, w)


def _along(s: Tensor, w: Tensor) -> Tensor:
    return s.view(-1, *[1] * (w.ndim - 1))


def _per_channel(a: Tensor, b: Tensor) -> Tensor:
    """Σ a b of each channel that goes out, without the product in memory."""
    found: Tensor = torch.linalg.vecdot(a.flatten(1), b.flatten(1))
    return found


def _change(w: Tensor, s: Tensor | None, v: Tensor | None, t: Tensor | None) -> Tensor | None:
    """How s w changes as w and s change by v and t."""
    if s is None:
        return v
    if t is None:
        return None if v is None else _scaled(v, s)
    return w * _along(t, w) if v is None else torch.addcmul(_scaled(v, s), w, _along(t, w))


def _unscaled(
    w: Tensor,
    s: Tensor,
    by_scaled: Tensor | None,
    g_w: Tensor | None,
    v: Tensor | None,
    t: Tensor | None,
) -> tuple[Tensor | None, Tensor | None]:
    """Cotangents of w and s: of s w in the gradient by x, and of (s g_w, Σ w g_w)."""
    by_w = by_s = None
    if by_scaled is not None:
        by_w, by_s = _scaled(by_scaled, s), _per_channel(by_scaled, w)
    if v is not None and g_w is not None:
        more = _per_channel(v, g_w)
        by_s = more if by_s is None else by_s + more
    if t is not None and g_w is not None:
        by_w = g_w * _along(t, w) if by_w is None else by_w.addcmul_(g_w, _along(t, w))
    return by_w, by_s


def _tangent(
    x: Tensor, w: Tensor, u: Tensor | None, v: Tensor | None, c: Tensor | None, geometry: Geometry
) -> Tensor | None:
    """The outputs' change as x, w and the bias change by u, v and c."""
    if u is None:
        if v is None and c is not None:
            v = torch.zeros_like(w)
        return None if v is None else _forward(x, v, c, geometry)
    y = _forward(u, w, c, geometry)
    if v is not None:
        few = max(1, _AT_A_TIME * len(y) // y.numel())
        for i in range(0, len(y), few):
            y[i : i + few] += _forward(x[i : i + few], v, None, geometry)
    return y


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
