"""The parameters moved along z for the length of a call: derivatives by differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


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
