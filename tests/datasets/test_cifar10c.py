"""CIFAR-10-C from its published files, and images made in its style where there are none."""

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from curvature.datasets import generated, load
from curvature.datasets.batches import choose
from curvature.datasets.cifar10c import cifar10c
from curvature.datasets.corruptions import KINDS, corrupt
from curvature.datasets.dataset import Dataset
from tests.conftest import seeded
from tests.datasets.test_cifar10 import examples, write

COUNT = 20  # test images in the tiny files


def publish(folder: Path, kinds: list[str]) -> Path:
    """Tiny files as they are published: pixel [0, 0, 0] tells kind, severity and image."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "labels.npy", np.tile(np.arange(COUNT) % 10, 5).astype(np.uint8))
    for kind in kinds:
        images = np.zeros((5 * COUNT, 32, 32, 3), np.uint8)
        images[:, 0, 0, 0] = np.arange(5 * COUNT)
        images[:, 0, 0, 1] = list(KINDS).index(kind)
        images[:, 5, 9, 2] = 77
        np.save(folder / f"{kind}.npy", images)
    return folder


def loaded(spec: str, **options: Any) -> Dataset:
    data = load(f"cifar10c:{spec}", "test", **options)
    assert isinstance(data, Dataset)
    return data


def levels(data: Dataset, group: str) -> list[str]:
    codes, labels = data.groups[group]
    return [labels[code] for code in codes.tolist()]


def test_published_files_are_read_with_their_kinds_and_severities(tmp_path: Path) -> None:
    data = loaded(str(publish(tmp_path, list(KINDS))))
    assert data.name == "cifar10c"
    assert data.inputs.shape == (19 * 5 * COUNT, 3, 32, 32)
    assert (data.inputs[:, 2, 5, 9] == 77).all()
    assert data.inputs[:, 0, 0, 0].tolist() == 19 * list(range(5 * COUNT))
    kinds = [list(KINDS)[i] for i in data.inputs[:, 1, 0, 0].tolist()]
    assert levels(data, "corruption") == kinds
    severities = [str(1 + i // COUNT) for i in data.inputs[:, 0, 0, 0].tolist()]
    assert levels(data, "severity") == severities
    assert torch.equal(data.targets, data.inputs[:, 0, 0, 0].long() % COUNT % 10)
    assert (data.mean, data.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


def test_kinds_and_severities_are_chosen(tmp_path: Path) -> None:
    publish(tmp_path / "CIFAR-10-C", list(KINDS))
    data = loaded(f"{tmp_path},corruption=snow+fog,severity=5+2")
    assert dict.fromkeys(
        zip(levels(data, "corruption"), levels(data, "severity"), strict=True)
    ) == (dict.fromkeys([("snow", "5"), ("snow", "2"), ("fog", "5"), ("fog", "2")]))
    assert len(data) == 4 * COUNT


def test_fewer_images_are_the_same_of_every_kind_and_in_equal_classes(tmp_path: Path) -> None:
    publish(tmp_path, ["fog", "snow"])
    data = loaded(f"{tmp_path},images=10")
    number = data.inputs[:, 0, 0, 0].view(10, 10) % COUNT
    assert (number == number[0]).all()
    assert data.targets[:10].sort().values.tolist() == list(range(10))
    other = loaded(f"{tmp_path},images=10,draw=1").inputs[:10, 0, 0, 0]
    assert other.tolist() != number[0].tolist()


def test_a_choice_of_examples_is_not_of_the_first_severity_alone(tmp_path: Path) -> None:
    data = loaded(str(publish(tmp_path, ["fog", "snow", "frost"])))
    chosen = choose(data, examples=75, generator=seeded(0))
    assert chosen.groups["severity"][0].bincount().tolist() == [15] * 5
    assert chosen.groups["corruption"][0].bincount().tolist() == [25] * 3
    assert set(chosen.targets.bincount().tolist()) <= {7, 8}


def test_a_folder_with_some_kinds_says_which(tmp_path: Path) -> None:
    publish(tmp_path, ["snow", "fog"])
    assert loaded(str(tmp_path)).name == "cifar10c (only snow, fog)"
    with pytest.raises(ValueError, match=r"no frost\.npy in .*, only snow, fog"):
        loaded(f"{tmp_path},corruption=frost")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("corruption=rain", "no corruption `rain`. There are gaussian_noise"),
        ("corruption=", "no corruption ``"),
        ("severity=6", "severity is all, 1, 2, 3, 4, 5.*not `6`"),
        ("severity=1-3", "not `1-3`"),
        ("images=21", "images=21 of the 20 test images"),
        ("images=0", "images=0 of the 20"),
        ("report=x", "no option `report`"),
    ],
)
def test_a_wrong_option_is_refused(tmp_path: Path, option: str, message: str) -> None:
    publish(tmp_path, ["fog"])
    with pytest.raises(ValueError, match=message):
        loaded(f"{tmp_path},{option}")


@pytest.mark.parametrize("split", ["train", "val"])
def test_there_is_nothing_to_train_on(tmp_path: Path, split: str) -> None:
    with pytest.raises(ValueError, match=f"only the split test, not `{split}`"):
        load(f"cifar10c:{tmp_path}", split)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def objects(path: Path) -> None:
    np.save(path, np.array([{}], object))


def shorten(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


def widen(path: Path) -> None:
    np.save(path, np.load(path).astype(float) + 0.5)


def shuffle(path: Path) -> None:
    np.save(path, np.load(path)[::-1] + 1)


@pytest.mark.parametrize("damage", [truncate, empty, objects, shorten, widen, Path.unlink])
@pytest.mark.parametrize("name", ["labels", "fog"])
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, name: str, damage: Any) -> None:
    publish(tmp_path, ["fog", "snow"])
    damage(tmp_path / f"{name}.npy")
    with pytest.raises(ValueError, match=rf"{name}\.npy") as caught:
        loaded(f"{tmp_path},corruption=fog")
    assert "\n" not in str(caught.value)


def test_labels_that_differ_between_severities_are_refused(tmp_path: Path) -> None:
    publish(tmp_path, ["fog"])
    shuffle(tmp_path / "labels.npy")
    with pytest.raises(ValueError, match="five times the same labels"):
        loaded(str(tmp_path))


def test_a_folder_with_neither_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"neither CIFAR-10-C in .* nor CIFAR-10"):
        loaded(str(tmp_path))
    np.save(tmp_path / "labels.npy", np.zeros(50, np.uint8))
    with pytest.raises(ValueError, match=r"labels\.npy in .*, but no corruption"):
        loaded(str(tmp_path))


def test_images_are_made_from_cifar10_and_say_so(tmp_path: Path) -> None:
    write(tmp_path, "binary")
    data = loaded(f"{tmp_path},corruption=fog+pixelate,severity=2+4,images=20,cache={tmp_path}/c")
    assert data.name == "cifar10c-style (generated)"
    assert len(data) == 80
    pixels, labels = examples("test_batch")
    clean = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    everything = corrupt(clean, "pixelate", 4, seed=0, indices=range(30)).transpose(0, 3, 1, 2)
    made = data.inputs[60:].numpy()
    number = [int((everything == image).all(axis=(1, 2, 3)).argmax()) for image in made]
    assert (everything[number] == made).all()
    assert sorted(set(number)) == number
    assert data.targets[60:].tolist() == labels[number].tolist()
    assert data.targets.bincount().tolist() == [8] * 10


def test_images_are_made_once(tmp_path: Path) -> None:
    write(tmp_path, "binary")
    made: list[str] = []
    spec = f"{tmp_path},corruption=fog+snow,severity=1,cache={tmp_path}/c"
    first = loaded(f"{spec},images=20", report=made.append)
    assert [text.split(": ")[0] for text in made] == [
        "making fog 1 (1 of 2)",
        "making snow 1 (2 of 2)",
    ]
    made.clear()
    assert loaded(f"{spec},images=20", report=made.append).hash == first.hash
    assert made == []
    loaded(f"{spec},images=10", report=made.append)
    loaded(f"{spec},images=20,draw=1", report=made.append)
    assert len(made) == 4


def test_a_damaged_copy_is_made_anew_and_nothing_half_written_is_left(tmp_path: Path) -> None:
    write(tmp_path, "binary")
    spec = f"{tmp_path},corruption=fog,severity=1,cache={tmp_path}/c"
    first = loaded(spec)
    (kept,) = (tmp_path / "c").rglob("*.*")
    for damage in (truncate, empty, objects, shorten):
        damage(kept)
        assert loaded(spec).hash == first.hash
        assert list((tmp_path / "c").rglob("*.*")) == [kept]


def test_the_cache_is_where_the_system_keeps_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert generated.cache_folder() == tmp_path / "curvature"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert generated.cache_folder() == tmp_path / ".cache" / "curvature"


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    write(tmp_path, "binary")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"can't be kept in .*file.*cache=DIR"):
        loaded(f"{tmp_path},corruption=fog,severity=1,cache={tmp_path}/file")


def test_kept_images_can_be_read_by_others(tmp_path: Path) -> None:
    write(tmp_path, "binary")
    loaded(f"{tmp_path},corruption=fog,severity=1,cache={tmp_path}/c")
    (kept,) = (tmp_path / "c").rglob("*.npy")
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(kept.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_real_images_of_a_kind_are_balanced(real_cifar10: Path, tmp_path: Path) -> None:
    data = cifar10c(str(real_cifar10), severity=3, images=100, cache=str(tmp_path))
    assert len(data) == 1900
    assert data.targets.bincount().max() - data.targets.bincount().min() <= 19 * 20
    clean = load(f"cifar10:{real_cifar10}", "test")
    assert isinstance(clean, Dataset)
    assert abs(data.inputs.float().mean() - clean.inputs.float().mean()) < 15
