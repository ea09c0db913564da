"""CIFAR-10-C (Hendrycks & Dietterich 2019): the published files, or images made in their style.

Published: labels.npy and one file for each kind, 50,000 images in five blocks of one severity
each (https://zenodo.org/records/2535967). Where the folder holds CIFAR-10 itself, its test images
are corrupted by `curvature.datasets.corruptions` instead, and the data set's name says so.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from curvature.datasets import cifar10_files, cifar10c_files, generated
from curvature.datasets.cifar10 import MEAN, STD
from curvature.datasets.corruptions import KINDS, SEVERITIES
from curvature.datasets.dataset import Constants, Dataset, constants
from curvature.datasets.splits import Split, check_split, part

GENERATED_IMAGES = 2000  # by default: 190,000 corrupted ones, 0.6 GB

Pairs = Sequence[tuple[str, int]]  # (kind, severity)


def cifar10c(
    path: str,
    split: Split = "test",
    *,
    corruption: str = "all",
    severity: int | str = "all",
    images: int | None = None,
    draw: int = 0,
    cache: str | None = None,
    mean: Constants = MEAN,
    std: Constants = STD,
    report: Callable[[str], None] | None = None,
) -> Dataset:
    """Corrupted test images of ``corruption`` (all, or NAME+NAME) and ``severity`` (all, or 1+2).

    Of each kind and severity the same ``images`` test images, as many of each class, drawn by
    ``draw``: by default all of published files, 2,000 of generated ones (which ``draw`` seeds
    too, and which are kept in ``cache``, by default ~/.cache/curvature). They are normalised as
    training images are; the released code of the study has other constants for these alone.
    """
    check_split(split)
    if split != "test":
        raise ValueError(f"cifar10c has only the split test, not `{split}`.")
    levels = _severities(str(severity))
    folder = cifar10c_files.find(path)
    if folder is not None:
        labels = cifar10c_files.labels(folder)
        there = cifar10c_files.kinds(folder)
        pairs = [(kind, level) for kind in _kinds(corruption, there, folder) for level in levels]
        chosen = _chosen(labels, images, draw, folder)
        blocks = cifar10c_files.blocks(folder, pairs, len(labels), chosen)
        name = "cifar10c" if len(there) == len(KINDS) else f"cifar10c (only {', '.join(there)})"
    else:
        source = _clean_source(path)
        clean, labels = source.read("test")
        pairs = [(kind, level) for kind in _kinds(corruption, KINDS, path) for level in levels]
        count = min(GENERATED_IMAGES, len(labels)) if images is None else images
        chosen = _chosen(labels, count, draw, source.path)
        pixels = clean.transpose(0, 2, 3, 1)[chosen]
        blocks = generated.blocks(
            pixels, chosen.tolist(), pairs, seed=draw, cache=cache, report=report
        )
        name = "cifar10c-style (generated)"
    data = _joined(name, pairs, blocks, labels[chosen])
    return replace(data, mean=constants(mean, "mean"), std=constants(std, "std"))


def _joined(name: str, pairs: Pairs, blocks: Iterable[np.ndarray], labels: np.ndarray) -> Dataset:
    """Kind after kind, severity after severity, in each the same images."""
    count = len(labels)
    inputs = torch.empty(len(pairs) * count, 3, 32, 32, dtype=torch.uint8)
    for i, block in enumerate(blocks):
        inputs[i * count : (i + 1) * count] = torch.from_numpy(block).movedim(3, 1)
    kinds = tuple(dict.fromkeys(kind for kind, _ in pairs))
    levels = tuple(dict.fromkeys(level for _, level in pairs))
    codes = torch.tensor([(kinds.index(kind), levels.index(level)) for kind, level in pairs])
    kind_codes, level_codes = codes.repeat_interleave(count, dim=0).unbind(1)
    return Dataset(
        name,
        inputs,
        torch.from_numpy(labels).long().repeat(len(pairs)),
        classes=10,
        groups={
            "corruption": (kind_codes, kinds),
            "severity": (level_codes, tuple(map(str, levels))),
        },
    )


def _severities(text: str) -> list[int]:
    known = [str(level) for level in SEVERITIES]
    asked = known if text == "all" else text.split("+")
    for level in asked:
        if level not in known:
            raise ValueError(
                f"The severity is all, 1, 2, 3, 4, 5, or some as in 1+3; not `{text}`."
            )
    return [int(level) for level in dict.fromkeys(asked)]


def _kinds(text: str, there: Iterable[str], where: str | Path) -> list[str]:
    asked = list(there) if text == "all" else list(dict.fromkeys(text.split("+")))
    for kind in asked:
        if kind not in KINDS:
            raise ValueError(
                f"There is no corruption `{kind}`. There are {', '.join(KINDS)}; several are "
                "written fog+snow, every one all."
            )
        if kind not in there:
            raise ValueError(f"There is no {kind}.npy in {where}, only {', '.join(there)}.")
    if not asked:
        raise ValueError(f"There is labels.npy in {where}, but no corruption, as fog.npy.")
    return asked


def _clean_source(path: str) -> cifar10_files.Source:
    source = cifar10_files.find(path)
    if source is None:
        raise ValueError(
            f"There is neither CIFAR-10-C in {path} (labels.npy and fog.npy, snow.npy, …, unpacked "
            "from https://zenodo.org/records/2535967) nor CIFAR-10, from which to make the like."
        )
    return source


def _chosen(labels: np.ndarray, images: int | None, draw: int, where: Path) -> np.ndarray:
    if images is None or images == len(labels):
        return np.arange(len(labels))
    if not 1 <= images <= len(labels):
        raise ValueError(
            f"images={images} of the {len(labels):,} test images in {where} can't be taken."
        )
    return part(torch.from_numpy(labels), "test", validation=0, test=images, seed=draw).numpy()
