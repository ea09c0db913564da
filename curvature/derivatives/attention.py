"""Softmax and attention whose second derivatives go over memory as seldom as they can.

PyTorch writes a dozen tensors as large as all attention weights for a product with them; on a CPU
that took two thirds of a vision transformer's product with the Hessian.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_AT_A_TIME = 2**17  # attention weights: what is made of them on the way stays in the cache


class OwnAttention(TorchFunctionMode):
    """In the length of a ``with``, softmax along the last dimension is that from here.

    So is attention without dropout: PyTorch's own, and written out as softmax(q kᵀ) v.
    """

    def __init__(self) -> None:
        super().__init__()
        self._scores: _Made | None = None  # the last product of matrices
        self._weights: _Made | None = None  # the last softmax of such

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:  # which is Python, and calls these two
            with _in_place_of(F, softmax=_softmax, scaled_dot_product_attention=_attention):
                return func(*args, **kwargs)
        if func in _MATMUL and len(args) == 2 and not kwargs and all(map(_is_stack, args)):
            return self._matmul(func, *args)
        found = _OURS[func](*args, **kwargs) if func in _OURS else None
        if found is None:
            return func(*args, **kwargs)
        if self._scores is not None and self._scores.made_it(args[0] if args else None):
            self._weights = _Made.of(found, self._scores.q, self._scores.kt)
        self._scores = None
        return found

    def _matmul(self, func: Any, a: Tensor, b: Tensor) -> Tensor:
        weights, self._weights = self._weights, None
        if a.shape[:-2] != b.shape[:-2]:
            return func(a, b)  # type: ignore[no-any-return]
        if weights is not None and weights.made_it(a):
            return _weighted(weights.q, weights.kt, b, a)
        product = func(a, b)
        self._scores = _Made.of(product, a, b)
        return product  # type: ignore[no-any-return]


_MATMUL = (torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__)


def _is_stack(t: Any) -> bool:
    return type(t) is Tensor and t.ndim > 2 and not t.is_nested and t.is_floating_point()


@dataclass(frozen=True)
class _Made:
    """What a tensor was made of; all three as they were then."""

    found: weakref.ref[Tensor]
    q: Tensor
    kt: Tensor
    versions: list[int]

    @classmethod
    def of(cls, found: Tensor, q: Tensor, kt: Tensor) -> _Made:
        return cls(weakref.ref(found), q, kt, [t._version for t in (found, q, kt)])

    def made_it(self, t: Any) -> bool:
        """Whether it is that tensor, and nothing was written to since."""
        now = [s._version for s in (self.found(), self.q, self.kt) if s is not None]
        return self.found() is t and now == self.versions


@contextmanager
def _in_place_of(module: Any, **ours: Callable[..., Tensor | None]) -> Iterator[None]:
    """``ours``, and the module's where that gives None."""
    were = {name: getattr(module, name) for name in ours}

    def replacement(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            found = ours[name](*args, **kwargs)
            return were[name](*args, **kwargs) if found is None else found

        return call

    try:
        for name in ours:
            setattr(module, name, replacement(name))
        yield
    finally:
        for name, was in were.items():
            setattr(module, name, was)


def _softmax(
    x: Any, dim: int | None = None, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any
) -> Tensor | None:
    """None where it isn't along the last dimension, or gives another type."""
    if args or kwargs.keys() - {"_stacklevel"} or type(x) is not Tensor:
        return None
    if dim not in (-1, x.ndim - 1) or not x.ndim or dtype not in (None, x.dtype):
        return None
    y: Tensor = _Softmax.apply(x)  # type: ignore[no-untyped-call]
    return y


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """None where there is dropout, where a mask is learned, and where PyTorch says what's wrong."""
    given = [query, key, value]
    if dropout_p or not all(map(_is_stack, given)) or (is_causal and attn_mask is not None):
        return None
    if attn_mask is not None and (type(attn_mask) is not Tensor or attn_mask.requires_grad):
        return None
    if enable_gqa:
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
    if not query.shape[:-2] == key.shape[:-2] == value.shape[:-2]:
        return None
    q = query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    with torch.no_grad():
        y = _weights(q @ key.mT, attn_mask, is_causal)
    return _weighted(q, key.mT, value, y)


def _weights(scores: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
    """Softmax; zeros for a query to which all keys are masked."""
    if is_causal:
        mask = torch.ones_like(scores, dtype=torch.bool).tril()
    if mask is None:
        return scores.softmax(-1)
    is_choice = mask.dtype == torch.bool
    scores = scores.masked_fill(~mask, -math.inf) if is_choice else scores + mask
    found: Tensor = torch.ops.aten._safe_softmax(scores, -1)
    return found


def _weighted(q: Tensor, kt: Tensor, v: Tensor, y: Tensor) -> Tensor:
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


_OURS: dict[Any, Callable[..., Tensor | None]] = {
    F.softmax: _softmax,
    torch.softmax: _softmax,
    Tensor.softmax: _softmax,
    F.scaled_dot_product_attention: _attention,
}
