"""f(w + hz) − 2f(w) + f(w − hz): second derivatives along z from outputs alone, for smooth f."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def second_difference(
    forward: Callable[[], list[Tensor]],
    params: Sequence[Tensor],
    z: Sequence[Tensor],
    *,
    h: float,
    center: Sequence[Tensor],
) -> list[Tensor]:
    """(f(w + hz) − 2f(w) + f(w − hz)) / h² in float64; ``center`` is f(w).

    Two forward passes. Across kinks (ReLU) it means nothing, whatever ``h``.
    """
    with moved_along(params, z, h):
        ahead = forward()
    with moved_along(params, z, -h):
        behind = forward()
    return [
        ((a.double() - f.double()) + (b.double() - f.double())) / h**2
        for a, f, b in zip(ahead, center, behind, strict=True)
    ]


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
