"""Batches as nested tuples, lists, mappings and dataclasses of tensors."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from types import NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten


def part_of(batch: Any, start: int, stop: int, n: int) -> Any:
    """Examples ``start``:``stop`` of a nested batch of ``n``; anything else in it stays whole."""
    return map_tensors(batch, lambda t: t[start:stop] if t.ndim and len(t) == n else t)


def uneven_parts(batch: Any, n: int) -> list[Any]:
    """A nested batch of ``n`` in two: the mean over it is not the mean of the parts' means."""
    cut = max(1, n // 3)
    return [part_of(batch, 0, cut, n), part_of(batch, cut, n, n)]


def rows_of(batch: Any, rows: list[int], n: int) -> Any:
    """Chosen examples of a nested batch of ``n``; anything else in it stays whole."""
    return map_tensors(batch, lambda t: t[rows] if t.ndim and len(t) == n else t)


def rows_joined(one: Any, other: Any) -> Any:
    """The rows of two nested batches as those of one; None where more than their rows differ."""
    (a, kind), (b, other_kind) = tree_flatten(one), tree_flatten(other)
    if kind != other_kind:
        return None
    found: list[Any] = []
    for s, t in zip(a, b, strict=True):
        if isinstance(s, Tensor) and isinstance(t, Tensor) and s.ndim and t.ndim:
            if (s.dtype, s.shape[1:]) != (t.dtype, t.shape[1:]):
                return None
            found.append(torch.cat([s, t]))
        elif isinstance(s, (str, int, float, NoneType)) and s == t:
            found.append(s)
        else:
            return None
    return tree_unflatten(found, kind)


def moved(batch: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """The batch on ``device``, its floats in the model's ``dtype``."""

    def move(t: Tensor) -> Tensor:
        if t.is_inference():
            t = t.clone()  # autograd can't save one for the backward pass
        return t.to(device, dtype if t.is_floating_point() else t.dtype)

    return map_tensors(batch, move, lambda thing: thing.to(device))


def as_tensors(batch: Any) -> Any:
    """The batch with NumPy arrays as tensors."""
    return map_tensors(batch, lambda t: t)


def leading_dimensions(batch: Any) -> set[int]:
    """The lengths of all tensors in a nested batch, scalars left out."""
    found: set[int] = set()

    def look(t: Tensor) -> Tensor:
        if t.ndim:
            found.add(len(t))
        return t

    map_tensors(batch, look)
    return found


def shapes_in(batch: Any) -> list[tuple[int, ...]]:
    """The shapes of all tensors in it, in order."""
    return [tuple(t.shape) for t in tensors_in(batch)]


def tensors_in(tree: Any) -> list[Tensor]:
    """The tensors in it, in order."""
    found: list[Tensor] = []

    def look(t: Tensor) -> Tensor:
        found.append(t)
        return t

    map_tensors(tree, look)
    return found


def floats_in(tree: Any) -> list[Tensor]:
    """The tensors of floats in it, in order."""
    return [t for t in tensors_in(tree) if t.is_floating_point()]


def with_floats(tree: Any, tensors: Sequence[Tensor]) -> Any:
    """The same with other tensors in place of ``floats_in(tree)``."""
    others: Iterator[Tensor] = iter(tensors)
    return map_tensors(tree, lambda t: next(others) if t.is_floating_point() else t)


def joined(tree: Any) -> Tensor:
    """All its floats as one flat tensor; a tensor as it is."""
    if isinstance(tree, Tensor):
        return tree
    return torch.cat([t.reshape(-1) for t in floats_in(tree)])


def digest(batch: Any) -> str:
    """A hash of all that a nested batch holds in tensors, arrays, numbers and strings."""
    hashed = hashlib.blake2b(digest_size=8)

    def add(t: Tensor) -> Tensor:
        hashed.update(repr((t.dtype, tuple(t.shape))).encode())
        if t.numel():
            flat = t.detach().cpu().contiguous().view(-1)
            hashed.update(flat.view(torch.uint8).numpy().data)
        return t

    def add_other(thing: Any) -> Any:
        if isinstance(thing, (str, bytes, int, float)):
            hashed.update(repr(thing).encode())
        return thing

    map_tensors(batch, add, add_other, add_other)
    return hashed.hexdigest()


def map_tensors(
    tree: Any,
    function: Callable[[Tensor], Tensor],
    movable: Callable[[Any], Any] = lambda thing: thing,
    other: Callable[[Any], Any] = lambda thing: thing,
) -> Any:
    """``function`` of every tensor; ``movable`` of what else has ``to``; ``other`` of the rest."""

    def go(tree: Any) -> Any:
        if isinstance(tree, np.ndarray) and tree.dtype.kind in "biuf":
            tree = torch.as_tensor(np.require(tree, requirements=["C", "W"]))
        if isinstance(tree, Tensor):
            return function(tree)
        if isinstance(tree, Mapping):
            return _same_kind(tree, {key: go(value) for key, value in tree.items()})
        if hasattr(tree, "to"):  # a PackedSequence, someone's batch object
            return movable(tree)
        if isinstance(tree, tuple) and hasattr(tree, "_fields"):
            return type(tree)(*map(go, tree))
        if isinstance(tree, (tuple, list)):
            return type(tree)(map(go, tree))
        if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
            parts = {f.name: go(getattr(tree, f.name)) for f in dataclasses.fields(tree) if f.init}
            return dataclasses.replace(tree, **parts)
        return other(tree)

    return go(tree)


def _same_kind(mapping: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    """``items`` as what they were, so that a BatchEncoding or ModelOutput keeps its attributes."""
    if type(mapping) is dict or not isinstance(mapping, MutableMapping):
        return items
    twin = copy.copy(mapping)
    for key, value in items.items():
        twin[key] = value
    return twin
