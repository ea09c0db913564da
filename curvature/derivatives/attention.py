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
from torch.utils.weak import WeakIdKeyDictionary

from curvature.derivatives.softmax import softmax, weighted


class OwnAttention(TorchFunctionMode):
    """In the length of a ``with``, softmax along the last dimension is that from here.

    So is attention without dropout: PyTorch's own, and written out as softmax(q kᵀ) v.
    """

    def __init__(self) -> None:
        super().__init__()
        self._scores: _Made | None = None  # the last product of matrices
        self._weights: _Made | None = None  # the last softmax of such
        self._passed_by: WeakIdKeyDictionary = WeakIdKeyDictionary()  # weights, and their scores

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:  # which is Python, and calls these two
            with _in_place_of(F, softmax=_softmax, scaled_dot_product_attention=_attention):
                return func(*args, **kwargs)
        if func in _MATMUL and len(args) == 2 and not kwargs and all(map(_is_stack, args)):
            return self._matmul(func, *args)
        if func in _OF_THE_GRAPH:
            self._leave_the_graph(func, args)
        found = _OURS[func](*args, **kwargs) if func in _OURS else None
        if found is None:
            return func(*args, **kwargs)
        scores, self._scores = self._scores, None
        x = args[0] if args else kwargs.get("input")
        if scores is not None and scores.made_it(x):
            self._weights = _Made.of(found, scores.q, scores.kt, x)
        return found

    def _matmul(self, func: Any, a: Tensor, b: Tensor) -> Tensor:
        weights, self._weights = self._weights, None
        if a.shape[:-2] != b.shape[:-2]:
            return func(a, b)  # type: ignore[no-any-return]
        if weights is not None and weights.made_it(a):
            for t in (a, weights.scores()):
                if t is not None:
                    self._passed_by[t] = True
            return weighted(weights.q, weights.kt, b, a)
        product = func(a, b)
        self._scores = _Made.of(product, a, b)
        return product  # type: ignore[no-any-return]

    def _leave_the_graph(self, func: Any, args: Any) -> None:
        """What is done to a gradient must find the tensors that it passes through."""
        self._scores = self._weights = None
        if func is Tensor.register_hook and args[0] in self._passed_by:
            raise RuntimeError("Attention weights were given a hook after they had been used.")


_MATMUL = (torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__)
_OF_THE_GRAPH = (torch.autograd.grad, Tensor.register_hook, Tensor.detach_)


def _is_stack(t: Any) -> bool:
    plain = type(t) is Tensor and t.layout == torch.strided and not t.is_inference()
    return plain and t.ndim > 2 and t.is_floating_point()


@dataclass(frozen=True)
class _Made:
    """What a tensor was made of, all as they were then; of weights the scores, too."""

    found: weakref.ref[Tensor]
    q: Tensor
    kt: Tensor
    versions: list[int]
    scores: Callable[[], Tensor | None]

    @classmethod
    def of(cls, found: Tensor, q: Tensor, kt: Tensor, scores: Tensor | None = None) -> _Made | None:
        """None where no gradient takes the way back from ``found`` that it takes to the others."""
        if not found.requires_grad or found.is_inference():
            return None
        versions = [t._version for t in (found, q, kt)]
        of_scores = (lambda: None) if scores is None else weakref.ref(scores)
        return cls(weakref.ref(found), q, kt, versions, of_scores)

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

    news = {name: replacement(name) for name in ours}
    try:
        for name, new in news.items():
            setattr(module, name, new)
        yield
    finally:
        for name, was in were.items():
            if getattr(module, name) is news[name]:  # and not another thread's
                setattr(module, name, was)


def _softmax(
    input: Any,
    dim: int | None = None,
    *args: Any,
    dtype: torch.dtype | None = None,
    **kwargs: Any,
) -> Tensor | None:
    """None where it isn't along the last dimension, or gives another type."""
    if args or kwargs.keys() - {"_stacklevel"} or type(input) is not Tensor:
        return None
    last = input.ndim and dim in (-1, input.ndim - 1)
    return softmax(input) if last and dtype in (None, input.dtype) else None


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
    wrong = not query.shape[-1:].numel() or (is_causal and attn_mask is not None)
    if dropout_p or wrong or not all(map(_is_stack, given)):
        return None
    if attn_mask is not None:
        usual = type(attn_mask) is Tensor and attn_mask.dtype in (torch.bool, query.dtype)
        if not usual or attn_mask.requires_grad:
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
