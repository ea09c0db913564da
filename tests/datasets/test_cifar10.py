"""CIFAR-10 from disk: its layouts, its parts, and what is said of damaged files."""

import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from curvature.datasets import load

TRAIN = [f"data_batch_{i}" for i in range(1, 6)]
FILES = {**{name: 20 for name in TRAIN}, "test_batch": 30}
LAYOUTS = ("binary", "python", "python 2", "binary.tar.gz", "python.tar.gz")


def examples(name: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(sum(name.encode()))
    count = FILES[name]
    return rng.integers(0, 256, (count, 3072), np.uint8), rng.permutation(np.arange(count) % 10)


def write(root: Path, layout: str) -> Path:
    """Tiny files in the official layout; returns the folder that holds them."""
    binary = layout.startswith("binary")
    folder = root / f"cifar-10-batches-{'bin' if binary else 'py'}"
    folder.mkdir(parents=True)
    for name in FILES:
        pixels, labels = examples(name)
        if binary:
            records = np.column_stack([labels.astype(np.uint8), pixels])
            (folder / f"{name}.bin").write_bytes(records.tobytes())
        elif layout == "python 2":
            (folder / name).write_bytes(python2_pickle(pixels, labels.tolist()))
        else:
            batch = {"data": pixels, "labels": labels.tolist(), "batch_label": "a batch"}
            (folder / name).write_bytes(pickle.dumps(batch, protocol=5))
    if layout.endswith(".tar.gz"):
        with tarfile.open(root / f"cifar-10-{layout}", "w:gz") as archive:
            archive.add(folder, folder.name)
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    return folder


def python2_pickle(pixels: np.ndarray, labels: list[int]) -> bytes:
    """As the official files are: protocol 2, written by Python 2, byte strings for everything."""

    def string(content: bytes) -> bytes:
        return b"T" + len(content).to_bytes(4, "little") + content

    def integer(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    dtype = b"cnumpy\ndtype\n(" + string(b"u1") + integer(0) + integer(1) + b"tR"
    dtype += b"(" + integer(3) + string(b"|") + b"NNN" + integer(-1) * 2 + integer(0) + b"tb"
    shape = b"(" + integer(pixels.shape[0]) + integer(pixels.shape[1]) + b"t"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + integer(0) + b"t"
    array += string(b"b") + b"tR(" + integer(1) + shape + dtype + b"\x89"
    array += string(pixels.tobytes()) + b"tb"
    listed = b"](" + b"".join(map(integer, labels)) + b"e"
    return b"\x80\x02}(" + string(b"data") + array + string(b"labels") + listed + b"u."


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_images_and_labels(tmp_path: Path, layout: str) -> None:
    write(tmp_path, layout)
    data = load(f"cifar10:{tmp_path},validation=0", "train")
    pixels = np.concatenate([examples(name)[0] for name in TRAIN]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([examples(name)[1] for name in TRAIN])
    assert torch.equal(data.inputs, torch.from_numpy(pixels))
    assert torch.equal(data.targets, torch.from_numpy(labels))
    test = load(f"cifar10:{tmp_path}", "test")
    assert torch.equal(test.inputs.view(30, -1), torch.from_numpy(examples("test_batch")[0]))


@pytest.mark.parametrize("layout", ["binary", "python"])
def test_the_files_own_folder_can_be_named(tmp_path: Path, layout: str) -> None:
    folder = write(tmp_path, layout)
    assert load(f"cifar10:{folder}", "test").hash == load(f"cifar10:{tmp_path}", "test").hash


def test_an_archive_can_be_named(tmp_path: Path) -> None:
    write(tmp_path, "binary.tar.gz")
    archive = tmp_path / "cifar-10-binary.tar.gz"
    assert len(load(f"cifar10:{archive}", "test")) == 30


def test_validation_is_held_out_of_training_in_equal_numbers(tmp_path: Path) -> None:
    write(tmp_path, "binary")
    parts = {split: load(f"cifar10:{tmp_path},validation=30", split) for split in ("train", "val")}
    assert parts["val"].targets.bincount().tolist() == [3] * 10
    assert parts["train"].targets.bincount().tolist() == [7] * 10
    rows = torch.cat([part.inputs.view(len(part), -1) for part in parts.values()])
    assert len(rows.unique(dim=0)) == 100  # random images: no two are alike


def test_a_fifth_is_held_out_by_default_and_the_seed_draws_it(tmp_path: Path) -> None:
    write(tmp_path, "binary")
    hashes = {load(f"cifar10:{tmp_path}", "val", seed=seed).hash for seed in (0, 0, 1)}
    assert len(hashes) == 2
    assert len(load(f"cifar10:{tmp_path}", "val")) == 20


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("validation=0", r"val.* is empty.*validation=10000"),
        ("validation=100", r"validation=100 .* 100 training images"),
        ("validation=-1", r"validation=-1"),
        ("augment=mirror", r"none, crop, crop-flip"),
        ("mean=0.5/x", r"`mean` is one number for each channel"),
        ("colour=1", r"has no option `colour`"),
    ],
)
def test_a_wrong_option_is_refused_with_the_remedy(
    tmp_path: Path, option: str, message: str
) -> None:
    write(tmp_path, "binary")
    with pytest.raises(ValueError, match=message):
        load(f"cifar10:{tmp_path},{option}", "val")


def test_only_training_images_are_augmented(tmp_path: Path) -> None:
    write(tmp_path, "binary")
    kinds = [load(f"cifar10:{tmp_path},augment=crop", s).augment for s in ("train", "val", "test")]
    assert kinds == ["crop", "none", "none"]


def test_constants_can_be_those_of_another_training(tmp_path: Path) -> None:
    write(tmp_path, "binary")
    data = load(f"cifar10:{tmp_path},std=0.247/0.2435/0.2616", "test")
    assert data.std == (0.247, 0.2435, 0.2616)
    assert data.mean == (0.4914, 0.4822, 0.4465)


def test_a_part_of_cifar10_says_so_in_its_name(tmp_path: Path) -> None:
    write(tmp_path, "binary")
    assert load(f"cifar10:{tmp_path}", "test").name == "cifar10 (30 of 10,000 test images)"


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def damage_label(path: Path) -> None:
    path.write_bytes(b"\xff" + path.read_bytes()[1:])


def damage_reference(path: Path) -> None:
    path.write_bytes(b"Pelsewhere\n.")  # a persistent id, which Python explains in two lines


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("layout", "damage", "message"),
    [
        ("binary", damage_truncate, "records of 3073 bytes"),
        ("binary", damage_empty, "has 0 bytes"),
        ("binary", damage_label, "label 255"),
        ("binary", Path.unlink, "is missing"),
        ("python", damage_truncate, "can't be read as a CIFAR-10 pickle"),
        ("python", damage_empty, "can't be read as a CIFAR-10 pickle"),
        ("python", damage_reference, "can't be read as a CIFAR-10 pickle"),
        ("python", damage_label, "can't be read as a CIFAR-10 pickle"),
        ("python", Path.unlink, "is missing"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(
    tmp_path: Path, layout: str, damage: Any, message: str
) -> None:
    folder = write(tmp_path, layout)
    damage(next(folder.glob("data_batch_3*")))
    with pytest.raises(ValueError, match=message) as caught:
        load(f"cifar10:{tmp_path}", "train")
    assert "data_batch_3" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_truncated_archive_is_named(tmp_path: Path, keep: float) -> None:
    write(tmp_path, "binary.tar.gz")
    archive = tmp_path / "cifar-10-binary.tar.gz"
    content = archive.read_bytes()
    archive.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz"):
        load(f"cifar10:{tmp_path}", "train")


def test_a_flipped_bit_in_an_archive_is_found(tmp_path: Path) -> None:
    write(tmp_path, "binary.tar.gz")
    archive = tmp_path / "cifar-10-binary.tar.gz"
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz can't be read"):
        load(f"cifar10:{tmp_path}", "train")


def test_a_folder_without_cifar10_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds none\. Looked for data_batch_1\.bin"):
        load(f"cifar10:{tmp_path}", "test")
    with pytest.raises(ValueError, match="is not a folder"):
        load(f"cifar10:{tmp_path / 'nowhere'}", "test")


class Attack:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return os.unlink, (str(self.victim),)


@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_pickle_runs_nothing(tmp_path: Path, protocol: int) -> None:
    victim = tmp_path / "victim"
    victim.touch()
    folder = write(tmp_path, "python")
    batch = {"data": Attack(victim), "labels": []}
    (folder / "test_batch").write_bytes(pickle.dumps(batch, protocol=protocol))
    with pytest.raises(ValueError, match=r"unlink`, which no CIFAR-10 file needs"):
        load(f"cifar10:{tmp_path}", "test")
    assert victim.exists()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1, 2], "holds a list, not a dict"),
        ({"data": np.zeros((2, 3072), np.uint8)}, "no `labels`"),
        ({"data": np.zeros((2, 3072)), "labels": [0, 1]}, "no array of bytes"),
        ({"data": np.zeros((2, 3073), np.uint8), "labels": [0, 1]}, r"shape \(2, 3073\)"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, r"labels of shape \(1,\)"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 10]}, "label 10"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": ["a", "b"]}, "label 'a'"),
        ({"data": np.array([{}], object), "labels": [0]}, "type 'O8' is not expected"),
        ({"data": np.zeros((0, 3072), np.uint8), "labels": []}, "no examples"),
    ],
)
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, batch: Any, message: str) -> None:
    folder = write(tmp_path, "python")
    (folder / "test_batch").write_bytes(pickle.dumps(batch))
    with pytest.raises(ValueError, match=message):
        load(f"cifar10:{tmp_path}", "test")


def test_real_images_look_like_cifar10(real_cifar10: Path) -> None:
    train, test = (load(f"cifar10:{real_cifar10}", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1600, 1000)
    x = train.normalized(train.inputs)
    assert x.mean(dim=(0, 2, 3)).abs().max() < 0.05
    whole = torch.tensor([0.2470, 0.2435, 0.2616])  # of all pixels; the study's are an image's
    assert (x.std(dim=(0, 2, 3)) - whole / torch.tensor(train.std)).abs().max() < 0.02
