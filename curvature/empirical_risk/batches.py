"""Anyone's batches as a fixed, re-iterable sequence of (inputs, targets)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sized
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from curvature.empirical_risk.evaluation import random_state_kept
from curvature.losses import examples_in


class Batches:
    """Batches that can be gone over again and again, always the same and in the same order."""

    def __init__(self, source: Iterable[Any], *, length: int, whole: bool) -> None:
        self._source = source
        self._length = length
        self._whole = whole  # a batch is handed to `loss(model, batch)` as it is

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Any]:
        with random_state_kept():  # a loader draws a seed even where it doesn't shuffle
            iterator = iter(self._source)
        for batch in iterator:
            yield batch if self._whole else _pair(batch)


def as_batches(data: Any, batch_size: int, *, whole: bool) -> Batches:
    """A list of batches, a DataLoader, or the tensors (inputs, targets) themselves.

    Raises:
        ValueError: if a first pass exhausts it, or two passes differ; the message says how.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(t, Tensor) for t in data):
        n = examples_in(data)
        if len(data[0]) != len(data[1]):
            raise ValueError(f"There are {len(data[0])} inputs for {len(data[1])} targets.")
        data = [part_of(data, start, start + batch_size, n) for start in range(0, n, batch_size)]
    if not hasattr(data, "__iter__") or isinstance(data, (str, bytes, Mapping, Tensor)):
        raise TypeError(
            f"`data` must be batches (inputs, targets), a DataLoader or a pair of tensors, got "
            f"{type(data).__name__}."
        )
    if iter(data) is data:
        raise ValueError(
            "`data` is an iterator, which one pass exhausts; curvature goes over it many times. "
            "Pass a list of batches or a DataLoader."
        )
    if not isinstance(data, (list, tuple)) and not getattr(data, "is_fixed", False):
        length = _check_order(data)
    else:
        assert isinstance(data, Sized)
        length = len(data)
    if not length:
        raise ValueError("`data` holds no batch.")
    return Batches(data, length=length, whole=whole)


def part_of(batch: Any, start: int, stop: int, n: int) -> Any:
    """Examples ``start``:``stop`` of a nested batch of ``n``; anything else in it stays whole."""
    return _map(batch, lambda t: t[start:stop] if t.ndim and len(t) == n else t)


def moved(batch: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """The batch on ``device``, its floats in the model's ``dtype``."""
    return _map(batch, lambda t: t.to(device, dtype if t.is_floating_point() else t.dtype))


def content_hash(batches: Iterable[Any]) -> str:
    """Twelve hexadecimal digits over the contents of all batches in order."""
    digests = "".join(_digest(batch) for batch in batches)
    return hashlib.blake2b(digests.encode(), digest_size=6).hexdigest()


def _map(tree: Any, function: Any) -> Any:
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: _map(value, function) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_map(item, function) for item in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(_map(item, function) for item in tree)
    return tree


def _pair(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    raise TypeError(
        f"A batch must be (inputs, targets), got {_shape_of(batch)}. For another layout pass a "
        "loss that takes `(model, batch)`."
    )


def _shape_of(batch: Any) -> str:
    size = f" of {len(batch)}" if isinstance(batch, Sized) else ""
    return f"a {type(batch).__name__}{size}"


def _check_order(data: Iterable[Any]) -> int:
    with random_state_kept():
        first = [_digests(batch) for batch in data]
        second = [_digests(batch) for batch in data]
    if first and not second:
        raise ValueError("`data` was exhausted by one pass. Pass a list of batches.")
    if first == second:
        return len(first)
    same = sorted(chain(*first)) == sorted(chain(*second))
    cause = (
        "in another order (shuffle=True?): the products would belong to different batches"
        if same
        else "with other contents (augmentation or random sampling?): each product would belong "
        "to another function"
    )
    raise ValueError(
        f"Two passes over `data` gave the examples {cause}. Use a DataLoader with shuffle=False "
        "and no augmentation, or pass `list(loader)`."
    )


def _digests(batch: Any) -> list[str]:
    """A hash per example where the batch has examples, else one for the whole."""
    n = examples_in(batch)
    parts = [part_of(batch, i, i + 1, n) for i in range(n)] or [batch]
    return [_digest(part) for part in parts]


def _digest(tree: Any) -> str:
    digest = hashlib.blake2b(digest_size=8)

    def add(t: Tensor) -> Tensor:
        flat = t.detach().cpu().contiguous().view(-1)
        digest.update(repr((t.dtype, tuple(t.shape))).encode())
        digest.update(flat.view(torch.uint8).numpy().tobytes())
        return t

    _map(tree, add)
    return digest.hexdigest()
