"""Attention by functions of our own, wherever a network calls for it or writes it out."""

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

from curvature.derivatives.softmax import softmax, weighted


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
            return weighted(weights.q, weights.kt, b, a)
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
    return softmax(x)


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
    return weighted(q, key.mT, value, y)


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


_OURS: dict[Any, Callable[..., Tensor | None]] = {
    F.softmax: _softmax,
    torch.softmax: _softmax,
    Tensor.softmax: _softmax,
    F.scaled_dot_product_attention: _attention,
}
