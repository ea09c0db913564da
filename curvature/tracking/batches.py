"""The batches that all measurements of one tracker are made on, taken once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from curvature.empirical_risk.evaluation import random_state_kept

FROM_A_LOADER = 8  # batches, unless another number is asked for


def taken(data: Any, count: int | None) -> Any:
    """``data`` as it is where it is fixed; of a loader a list of its first batches.

    A loader may shuffle and augment: what it gave once is kept. Random states, its own generators
    included, are left as they were, so that training goes on as without.
    """
    if count is not None and count < 1:
        raise ValueError(f"`batches` must be at least 1, got {count}.")
    if isinstance(data, (Dataset, Mapping, Tensor, str)) or not hasattr(data, "__iter__"):
        raise TypeError(
            "`data` must be batches (inputs, targets), a DataLoader or a pair of tensors, got "
            f"{type(data).__name__}."
        )
    if isinstance(data, tuple) and count is not None:
        raise ValueError("`batches` is for a list or a loader; pass fewer rows of the tensors.")
    if isinstance(data, (list, tuple)) or getattr(data, "is_fixed", False):
        return data if count is None else list(islice(data, count))
    if hasattr(data, "__next__"):
        raise ValueError(
            "`data` is an iterator, of which training would miss what is taken here. Pass a list "
            "of batches, or the loader itself."
        )
    if getattr(data, "persistent_workers", False):
        raise ValueError(
            "The loader keeps its workers (persistent_workers=True), whose random states can't be "
            "put back. Pass a list of batches, or another loader."
        )
    with random_state_kept(), _generators_kept(data):
        return [copy.deepcopy(batch) for batch in islice(data, count or FROM_A_LOADER)]


@contextmanager
def _generators_kept(data: Any) -> Iterator[None]:
    owners = [data, getattr(data, "sampler", None)] if isinstance(data, DataLoader) else []
    found: Sequence[torch.Generator] = [
        generator
        for owner in owners
        if isinstance(generator := getattr(owner, "generator", None), torch.Generator)
    ]
    states = [generator.get_state() for generator in found]
    try:
        yield
    finally:
        for generator, state in zip(found, states, strict=True):
            generator.set_state(state)
