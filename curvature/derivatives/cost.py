"""What a computation costs before much of it is done: seconds, and bytes that autograd keeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cost:
    """Seconds of one call, and the bytes of the tensors saved for its backward passes."""

    seconds: float
    saved_bytes: int


def measured(call: Callable[[], Tensor]) -> Cost:
    """Run ``call`` once, and count each storage that autograd saves on the way once."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    start = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    float(result.reshape(-1)[0])  # waits for an accelerator
    return Cost(time.perf_counter() - start, sum(storages.values()))
