"""What a computation costs: seconds, and bytes that autograd keeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cost:
    """Seconds of one call, and the bytes of the tensors saved for its backward passes."""

    seconds: float
    saved_bytes: int


class Saved:
    """Counts each storage that autograd saves once; those of ``params`` not at all."""

    def __init__(self, params: Sequence[Tensor] = ()) -> None:
        self._known = {p.untyped_storage().data_ptr() for p in params}
        self._storages: dict[int, int] = {}

    @property
    def bytes(self) -> int:
        """What is counted so far."""
        return sum(self._storages.values())

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what is saved in the length of a ``with``."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield

    def clear(self) -> None:
        """Forget it, where it was freed."""
        self._storages.clear()

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known and not isinstance(tensor, torch.nn.Parameter):
            self._storages[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # a saved output kept as it is would hold its own graph, forever


def measured(call: Callable[[], Tensor]) -> Cost:
    """Run ``call`` once, and count what autograd saves on the way."""
    saved = Saved()
    start = time.perf_counter()
    with saved.counting():
        result = call()
    float(result.reshape(-1)[0])  # waits for an accelerator
    return Cost(time.perf_counter() - start, saved.bytes)
