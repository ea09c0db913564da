"""Seeded, stratified train/validation/test parts of examples that come as one heap."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from curvature.datasets.dataset import Dataset

SPLITS = ("train", "val", "test")
Split = Literal["train", "val", "test"]


def part(targets: Tensor, split: str, *, validation: int, test: int, seed: int) -> Tensor:
    """Indices of the examples of ``split``, in ascending order, classes in equal proportions.

    ``validation`` and ``test`` count examples; all others are for training. The three parts of
    one seed are disjoint, and together are everything.
    """
    check_split(split)
    order = _stratified_order(targets, torch.Generator().manual_seed(seed))
    bounds = {
        "test": slice(0, test),
        "val": slice(test, test + validation),
        "train": slice(test + validation, None),
    }
    return order[bounds[split]].sort().values


def part_by_share(
    whole: Dataset, split: str, *, validation: float, test: float, seed: int
) -> Dataset:
    """The same as a data set, ``validation`` and ``test`` being shares of the whole."""
    if min(validation, test) < 0 or validation + test >= 1:
        raise ValueError(
            f"`validation` ({validation}) and `test` ({test}) are shares of all examples: neither "
            "may be negative, and together they must leave some for training."
        )
    held_out = {"validation": round(validation * len(whole)), "test": round(test * len(whole))}
    chosen = part(whole.targets, split, **held_out, seed=seed)
    if len(chosen) == 0:
        raise ValueError(
            f"The split `{split}` of `{whole.name}` is empty: `validation` is {validation} and "
            f"`test` is {test} of {len(whole):,} examples. Raise the one, or lower the other."
        )
    return whole.select(chosen)


def check_split(split: str) -> None:
    """Refuse what is none of train, val and test."""
    if split not in SPLITS:
        raise ValueError(f"The split is one of {', '.join(SPLITS)}, not `{split}`.")


def class_codes(targets: Tensor) -> Tensor:
    """An integer (N,) for the class of each example: all 0 where targets are no class labels."""
    if targets.ndim != 1 or targets.is_floating_point():
        return torch.zeros(len(targets), dtype=torch.int64)
    return torch.from_numpy(np.unique(targets.cpu().numpy(), return_inverse=True)[1])


def shuffled_ranks(codes: Tensor, generator: torch.Generator) -> Tensor:
    """For each example its place (0, 1, …) in a random order of those with the same code."""
    shuffle = torch.randperm(len(codes), generator=generator)
    grouped = shuffle[codes[shuffle].argsort(stable=True)]
    counts = codes.bincount()
    starts = counts.cumsum(0) - counts
    ranks = torch.empty_like(codes)
    ranks[grouped] = torch.arange(len(codes)) - starts[codes[grouped]]
    return ranks


def _stratified_order(targets: Tensor, generator: torch.Generator) -> Tensor:
    """A random order any stretch of which holds the classes in their proportions (± 1)."""
    codes = class_codes(targets)
    ranks = shuffled_ranks(codes, generator)
    counts = codes.bincount()
    offsets = torch.rand(len(counts), generator=generator, dtype=torch.float64)
    return ((ranks + offsets[codes]) / counts[codes]).argsort(stable=True)
