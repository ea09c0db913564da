"""Softmax, and attention by it, whose second derivatives go over memory as seldom as they can.

PyTorch writes a dozen tensors as large as all attention weights for a product with them; on a CPU
that took two thirds of a vision transformer's product with the Hessian.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_AT_A_TIME = 2**17  # attention weights: what is made of them on the way stays in the cache


def softmax(x: Tensor) -> Tensor:
    """Along the last dimension."""
    y: Tensor = _Softmax.apply(x)  # type: ignore[no-untyped-call]
    return y


def weighted(q: Tensor, kt: Tensor, v: Tensor, y: Tensor) -> Tensor:
    """``y`` = softmax(q kᵀ), masked or not, times v, as a function of q, kᵀ and v."""
    found: Tensor = _Attention.apply(q, kt, v, y.detach())  # type: ignore[no-untyped-call]
    return found


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        y = torch.softmax(x, -1)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Any:
        if g is None:
            return None
        return _SoftmaxBackward.apply(g, *ctx.saved_tensors)  # type: ignore[no-untyped-call]


class _SoftmaxBackward(torch.autograd.Function):
    """(g, y) ↦ y (g − yᵀg), row by row."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, y: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(g, y)
        return torch._softmax_backward_data(g, y, -1, y.dtype)

    @staticmethod
    def backward(ctx: Any, u: Tensor | None) -> Any:
        """By g it is y (u − yᵀu); by y it is u (g − yᵀg) − g (yᵀu)."""
        if u is None:
            return None, None
        by_g, by_y = _blank(*ctx.saved_tensors)
        for g, y, u_, to_g, to_y in _pieces(*ctx.saved_tensors, u, by_g, by_y):
            torch.mul(u_, y, out=to_g)
            yu = to_g.sum(-1, keepdim=True)
            to_g.addcmul_(y, yu, value=-1)
            torch.sub(g, (g * y).sum(-1, keepdim=True), out=to_y)
            to_y.mul_(u_).addcmul_(g, yu, value=-1)
        return by_g, by_y


class _Attention(torch.autograd.Function):
    """Y v, where Y = softmax(q kᵀ) is given and saved in place of what autograd would."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, kt: Tensor, v: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(q, kt, v, y)
        return y @ v

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        found = _AttentionBackward.apply(g, *ctx.saved_tensors)  # type: ignore[no-untyped-call]
        return *found, None


class _AttentionBackward(torch.autograd.Function):
    """The gradients by q, kᵀ and v: E k, qᵀE, Yᵀg, where E = Y (M − yᵀm) row by row, M = g vᵀ."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, q: Tensor, kt: Tensor, v: Tensor, y: Tensor) -> Any:
        ctx.save_for_backward(g, q, kt, v, y)
        found = _blank(q, kt, v)
        for g_, q_, kt_, v_, y_, to_q, to_kt, to_v in _pieces(g, q, kt, v, y, *found):
            ym = (g_ @ v_.mT).mul_(y_)
            e = ym.addcmul_(y_, ym.sum(-1, keepdim=True), value=-1)
            torch.bmm(e, kt_.mT, out=to_q)
            torch.bmm(q_.mT, e, out=to_kt)
            torch.bmm(y_.mT, g_, out=to_v)
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, a: Tensor, b: Tensor, c: Tensor) -> Any:
        """As q, kᵀ and v change by a, b and c, q kᵀ does by S and Y by Ẏ = Y (S − yᵀs).

        g's inner product with the outputs' change, Ẏ v + Y c, is differentiated by all four.
        """
        found = _blank(*ctx.saved_tensors[:4])
        for g, q, kt, v, y, a_, b_, c_, to_g, to_q, to_kt, to_v in _pieces(
            *ctx.saved_tensors, a, b, c, *found
        ):
            m = g @ v.mT
            s = (a_ @ kt).baddbmm_(q, b_)
            from_mean = s - (y * s).sum(-1, keepdim=True)
            change = y * from_mean
            torch.baddbmm(change @ v, y, c_, out=to_g)
            torch.bmm(change.mT, g, out=to_v)
            ym = y * m
            mean = ym.sum(-1, keepdim=True)
            e = ym.addcmul_(y, mean, value=-1)
            by_y = from_mean.mul_(m).addcmul_(s, mean, value=-1).baddbmm_(g, c_.mT)
            by_y.mul_(y)
            by_scores = by_y.addcmul_(y, by_y.sum(-1, keepdim=True), value=-1)
            torch.baddbmm(e @ b_.mT, by_scores, kt.mT, out=to_q)
            torch.baddbmm(a_.mT @ e, q.mT, by_scores, out=to_kt)
        return *found, None


def _blank(*like: Tensor) -> list[Tensor]:
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in like]


def _pieces(*stacks: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Stacks of matrices, some at a time on a processor. Those to be written to are contiguous."""
    flat = [t.reshape(t.shape[:-2].numel(), *t.shape[-2:]) for t in stacks]
    largest = max(1, *(t.shape[1:].numel() for t in flat))
    on_cpu = flat[0].device.type == "cpu"
    at_once = max(1, _AT_A_TIME // largest if on_cpu else len(flat[0]))
    return zip(*(torch.split(t, at_once) for t in flat), strict=True)
