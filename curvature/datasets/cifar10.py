"""CIFAR-10 (Krizhevsky 2009) from the files of its official distribution; no network is used."""

from typing import Literal

import torch

from curvature.datasets import cifar10_files
from curvature.datasets.dataset import Constants, Dataset, constants
from curvature.datasets.splits import Split, check_split, part

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def cifar10(
    path: str,
    split: Split,
    *,
    seed: int = 0,
    validation: int | None = None,
    augment: Literal["none", "crop", "crop-flip"] = "crop-flip",
    mean: Constants = MEAN,
    std: Constants = STD,
) -> Dataset:
    """The train, val or test part; the binary or python layout, or its tar.gz, at ``path``.

    ``validation`` images are held out of the training files for ``val``, by default a fifth
    (10,000 of 50,000): drawn by ``seed``, the same number of each class. 0 trains on all.
    """
    check_split(split)
    source = cifar10_files.locate(path)
    kind = "test" if split == "test" else "train"
    pixels, labels = source.read(kind)
    whole = Dataset(
        _name(kind, len(labels)),
        torch.from_numpy(pixels),
        torch.from_numpy(labels).long(),
        classes=10,
        mean=constants(mean, "mean"),
        std=constants(std, "std"),
        augment=augment if split == "train" else "none",
    )
    if split == "test" or (split == "train" and validation == 0):
        return whole
    held_out = len(whole) // 5 if validation is None else validation
    _check_validation(held_out, len(whole))
    return whole.select(part(whole.targets, split, validation=held_out, test=0, seed=seed))


def _name(kind: str, count: int) -> str:
    """Says so where the files aren't the whole of CIFAR-10."""
    official = cifar10_files.OFFICIAL[kind]
    return "cifar10" if count == official else f"cifar10 ({count:,} of {official:,} {kind} images)"


def _check_validation(validation: int, count: int) -> None:
    if validation == 0:
        raise ValueError(
            "The split `val` of cifar10 is empty with validation=0, which trains on all images. "
            "Hold some out (validation=10000), or measure on the split train or test."
        )
    if not 0 < validation < count:
        raise ValueError(
            f"validation={validation} images can't be held out of {count:,} training images; "
            f"give another number, such as validation={count // 5}."
        )
