"""Data sets of anyone's own files: arrays in an npz, images in one folder for each class."""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from curvature.datasets.adapt import from_arrays
from curvature.datasets.dataset import Constants, Dataset
from curvature.datasets.splits import SPLITS, Split, check_split, part_by_share

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm"}
_WHOLE = {"x": "y", "inputs": "targets"}


def npz(
    path: str,
    split: Split,
    *,
    seed: int = 0,
    validation: float = 0.0,
    test: float = 0.0,
    mean: Constants = None,
    std: Constants = None,
) -> Dataset:
    """Arrays ``x`` and ``y`` (or inputs and targets) of a NumPy file.

    x_train, y_train, x_test, … are taken where they are. Else every split is the whole, unless
    ``validation`` and ``test`` say which shares are drawn for them (stratified, by ``seed``).
    """
    check_split(split)
    apart, inputs, targets, labels = _load_pair(Path(path).expanduser(), split)
    whole = from_arrays(inputs, targets, "npz", mean=mean, std=std)
    if whole.classes is not None:  # a split may lack the last class
        whole = replace(whole, classes=int(max(y.max() for y in labels)) + 1)
    return whole if apart else _part(whole, split, seed, validation, test)


def images(
    path: str,
    split: Split,
    *,
    size: int | None = None,
    seed: int = 0,
    validation: float = 0.0,
    test: float = 0.0,
    mean: Constants = None,
    std: Constants = None,
) -> Dataset:
    """Images in one subfolder for each class, classes in the order of their names.

    Folders train, val and test are taken where they are; else as ``npz``. With ``size`` the
    shorter side is scaled to it (bicubic) and the middle square cut out.
    """
    check_split(split)
    root = Path(path).expanduser()
    apart = [root / name for name in SPLITS if (root / name).is_dir()]
    folder = root / split if apart else root
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder} for the split `{split}`.")
    classes = sorted({kind.name for part in apart or [root] for kind in _subfolders(part)})
    files = [(path, k) for k, name in enumerate(classes) for path in _image_files(folder / name)]
    if not files:
        raise ValueError(
            f"{folder} holds no images: expected one subfolder for each class, with "
            f"{', '.join(sorted(_SUFFIXES))} in it."
        )
    inputs = _stack([path for path, _ in files], size)
    targets = np.array([k for _, k in files])
    whole = from_arrays(inputs, targets, "images", mean=mean, std=std)
    whole = replace(whole, classes=len(classes))
    return whole if apart else _part(whole, split, seed, validation, test)


def _part(whole: Dataset, split: Split, seed: int, validation: float, test: float) -> Dataset:
    if validation == test == 0:
        return whole
    return part_by_share(whole, split, validation=validation, test=test, seed=seed)


def _load_pair(path: Path, split: str) -> tuple[bool, np.ndarray, np.ndarray, list[np.ndarray]]:
    """Are the splits apart, the inputs and targets of this one, and the targets of all."""
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array, not an npz file with two")
            x, y, of_all = _array_names(archive.files, split)
            return x not in _WHOLE, archive[x], archive[y], [archive[name] for name in of_all]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, OSError) and error.strerror:
            raise ValueError(f"{path} can't be read: {error.strerror}.") from error
        why = "it is no NumPy file" if "pickled" in str(error) else str(error)
        raise ValueError(f"{path} can't be read as arrays: {why}.") from error


def _array_names(there: list[str], split: str) -> tuple[str, str, list[str]]:
    """Names of the inputs and targets of ``split``, and of the targets of all splits."""
    apart = any(f"x_{name}" in there for name in SPLITS)
    pairs = {f"x_{split}": f"y_{split}"} if apart else _WHOLE
    for x, y in pairs.items():
        if x in there and y in there:
            return x, y, [name for name in there if name.startswith("y_")] if apart else [y]
    wanted = " or ".join(f"`{x}` and `{y}`" for x, y in pairs.items())
    raise ValueError(f"no {wanted} for the split `{split}` among its {', '.join(there) or 'none'}")


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()]


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []  # a split may lack a class
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)


def _stack(files: Sequence[Path], size: int | None) -> np.ndarray:
    stack: np.ndarray | None = None
    for i, path in enumerate(files):
        image = _read_image(path, size)
        if stack is None:
            stack = np.empty((len(files), *image.shape), np.uint8)
        if image.shape != stack.shape[1:]:
            first, this = ("×".join(map(str, a.shape[:2])) for a in (stack[0], image))
            raise ValueError(
                f"{path} has {this} pixels, {files[0]} {first}: give size=N to bring all images "
                "to N×N."
            )
        stack[i] = image
    assert stack is not None  # there is a file
    return stack.transpose(0, 3, 1, 2)


def _read_image(path: Path, size: int | None) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except OSError as error:
        raise ValueError(f"{path} can't be read as an image: {error}.") from error
    if size is not None:
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)
