"""The parameters moved along z for the length of a call: derivatives by differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def moved_along(params: Sequence[Tensor], z: Sequence[Tensor], h: float) -> Iterator[None]:
    """The parameters at w + hz for the length of a call; restored bitwise."""
    values = [p.data for p in params]  # whose versions don't count: in the end nothing has changed
    saved = [value.clone() for value in values]
    try:
        torch._foreach_add_(values, list(z), alpha=h)
        yield
    finally:
        torch._foreach_copy_(values, saved)
