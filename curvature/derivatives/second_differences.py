"""f(w + hz) − f(w), the outputs moved along z: second derivatives without autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def difference(
    forward: Callable[[], list[Tensor]],
    params: Sequence[Tensor],
    z: Sequence[Tensor],
    *,
    h: float,
    center: Sequence[Tensor],
) -> list[Tensor]:
    """f(w + hz) − f(w) in float64, by one forward pass; ``center`` is f(w)."""
    with moved_along(params, z, h):
        ahead = forward()
    return [a.double() - f.double() for a, f in zip(ahead, center, strict=True)]


@contextmanager
def moved_along(params: Sequence[Tensor], z: Sequence[Tensor], h: float) -> Iterator[None]:
    """The parameters at w + hz for the length of a call; restored bitwise."""
    saved = [p.detach().clone() for p in params]
    try:
        with torch.no_grad():
            torch._foreach_add_(list(params), list(z), alpha=h)
            yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(list(params), saved)
