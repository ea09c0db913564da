"""The digits and their parts."""

import pytest
import torch

from curvature.datasets.digits import digits

PARTS = ("train", "val", "test")


def test_the_parts_are_disjoint_and_are_everything() -> None:
    parts = [digits(split) for split in PARTS]
    assert [len(part) for part in parts] == [1079, 359, 359]
    rows = torch.cat([part.inputs.flatten(1) for part in parts])
    assert len(rows.unique(dim=0)) == 1797  # no two digits are alike


@pytest.mark.parametrize("split", PARTS)
def test_every_part_has_the_classes_in_proportion(split: str) -> None:
    counts = digits(split).targets.bincount()
    whole = sum(digits(part).targets.bincount() for part in PARTS)
    share = counts.sum() / 1797
    assert ((counts - share * whole).abs() <= 1.01).all()


def test_the_seed_draws_the_parts() -> None:
    hashes = [digits("test", seed=seed).hash for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_parts_are_those_of_every_earlier_run() -> None:
    assert [digits(split).hash for split in PARTS] == [
        "3b93f1e696e9",
        "024dd15d8831",
        "e491ee0778c5",
    ]


def test_the_images_are_normalised() -> None:
    x = torch.cat([part.normalized(part.inputs) for part in map(digits, PARTS)])
    assert x.shape == (1797, 1, 8, 8)
    assert abs(x.mean()) < 1e-3
    assert abs(x.std() - 1) < 1e-3


def test_shares_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="leave some for training"):
        digits("train", validation=0.5, test=0.5)
    with pytest.raises(ValueError, match="split `val` of `digits` is empty"):
        digits("val", validation=0.0)
