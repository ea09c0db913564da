"""Anyone's own arrays and folders of images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from curvature.datasets import load
from curvature.datasets.dataset import Dataset

X, Y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2


def loaded(spec: str, split: str = "test", **options: Any) -> Dataset:
    data = load(spec, split, **options)
    assert isinstance(data, Dataset)
    return data


@pytest.mark.parametrize(("x", "y"), [("x", "y"), ("inputs", "targets")])
def test_arrays_are_taken_whole_for_every_split(tmp_path: Path, x: str, y: str) -> None:
    np.savez(tmp_path / "a.npz", **{x: X, y: Y})
    for split in ("train", "val", "test"):
        data = loaded(f"npz:{tmp_path / 'a.npz'}", split)
        assert torch.equal(data.inputs, torch.from_numpy(X).float())
        assert torch.equal(data.targets, torch.from_numpy(Y))


def test_parts_of_arrays_are_drawn_where_they_are_asked_for(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    spec = f"npz:{tmp_path / 'a.npz'},validation=0.2,test=0.3"
    parts = [loaded(spec, split) for split in ("train", "val", "test")]
    assert [part.targets.bincount().tolist() for part in parts] == [[5, 5], [2, 2], [3, 3]]
    assert len(torch.cat([part.inputs for part in parts]).unique(dim=0)) == 20


def test_arrays_of_named_splits_are_taken(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=X, y_train=Y, x_test=X[:1], y_test=Y[:1])
    assert len(loaded(f"npz:{tmp_path / 'a.npz'}", "train")) == 20
    test = loaded(f"npz:{tmp_path / 'a.npz'}", "test")
    assert (len(test), test.classes) == (1, 2)
    with pytest.raises(
        ValueError, match=r"no `x_val` and `y_val` for the split `val` among its x_train"
    ):
        loaded(f"npz:{tmp_path / 'a.npz'}", "val")


def test_objects_in_arrays_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{}] * 2, object), y=Y[:2])
    with pytest.raises(ValueError, match=r"a\.npz can't be read as arrays: Object arrays"):
        loaded(f"npz:{tmp_path / 'a.npz'}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "can't be read"),
        (b"PK\x03\x04 no zip", "can't be read"),
        (b"text", "can't be read as arrays: it is no NumPy file.$"),
    ],
)
def test_a_file_that_is_no_npz_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.npz {message}"):
        loaded(f"npz:{tmp_path / 'a.npz'}")


def test_a_missing_file_and_a_single_array_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"b\.npz can't be read: No such file or directory\.$"):
        loaded(f"npz:{tmp_path / 'b.npz'}")
    np.save(tmp_path / "a.npy", X)
    with pytest.raises(ValueError, match="a single array"):
        loaded(f"npz:{tmp_path / 'a.npy'}")


def save(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


def test_a_folder_for_each_class_gives_images(tmp_path: Path) -> None:
    save(tmp_path / "dog" / "1.png", (10, 20, 30))
    save(tmp_path / "cat" / "1.png", (40, 50, 60))
    save(tmp_path / "dog" / "2.PNG", (70, 80, 90))
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    data = loaded(f"images:{tmp_path},mean=0.5/0.5/0.5,std=0.5")
    assert data.inputs.shape == (3, 3, 4, 6)
    assert data.inputs[:, :, 0, 0].tolist() == [[40, 50, 60], [10, 20, 30], [70, 80, 90]]
    assert data.targets.tolist() == [0, 1, 1]
    assert data.classes == 2


def test_folders_of_splits_are_taken(tmp_path: Path) -> None:
    save(tmp_path / "train" / "a" / "1.png", (1, 1, 1))
    save(tmp_path / "train" / "b" / "1.png", (1, 1, 1))
    save(tmp_path / "test" / "b" / "1.png", (1, 1, 1))
    assert loaded(f"images:{tmp_path}", "train").classes == 2
    test = loaded(f"images:{tmp_path}", "test")
    assert (test.targets.tolist(), test.classes) == ([1], 2)
    with pytest.raises(ValueError, match=r"no folder .*val for the split `val`"):
        loaded(f"images:{tmp_path}", "val")


def test_images_of_several_sizes_need_one(tmp_path: Path) -> None:
    save(tmp_path / "a" / "1.png", (9, 9, 9), (6, 4))
    save(tmp_path / "a" / "2.png", (9, 9, 9), (5, 5))
    with pytest.raises(ValueError, match=r"2\.png has 5×5 pixels, .*1\.png 4×6.*size=N"):
        loaded(f"images:{tmp_path}")
    data = loaded(f"images:{tmp_path},size=3")
    assert data.inputs.shape == (2, 3, 3, 3)
    assert (data.inputs == 9).all()


def test_a_broken_image_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no images: expected one subfolder for each class"):
        loaded(f"images:{tmp_path}")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1\.png can't be read as an image"):
        loaded(f"images:{tmp_path}")
