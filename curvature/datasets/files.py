"""Data sets of anyone's own files: arrays in an npz, images in one folder for each class."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from curvature.datasets.adapt import from_arrays
from curvature.datasets.dataset import Constants, Dataset
from curvature.datasets.splits import SPLITS, Split, check_split, part_by_share

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm"}
_PAIRS = (("x", "y"), ("inputs", "targets"))


def npz(
    file: str,
    split: Split,
    *,
    seed: int = 0,
    validation: float = 0.0,
    test: float = 0.0,
    mean: Constants = None,
    std: Constants = None,
) -> Dataset:
    """Arrays ``x`` and ``y`` (or inputs and targets) of a NumPy ``file``.

    x_train, y_train, x_test, … are taken where they are. Else every split is the whole, unless
    ``validation`` and ``test`` say which shares are drawn for them (stratified, by ``seed``).
    """
    check_split(split)
    path = Path(file).expanduser()
    apart, inputs, targets = _load_pair(path, split)
    whole = from_arrays(inputs, targets, "npz", mean=mean, std=std)
    return whole if apart else _part(whole, split, seed, validation, test)


def images(
    directory: str,
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
    root = Path(directory).expanduser()
    apart = any((root / name).is_dir() for name in SPLITS)
    folder = root / split if apart else root
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder} for the split `{split}`.")
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    files = [(path, k) for k, kind in enumerate(classes) for path in _image_files(kind)]
    if not files:
        raise ValueError(
            f"{folder} holds no images: expected one subfolder for each class, with "
            f"{', '.join(sorted(_SUFFIXES))} in it."
        )
    inputs = _stack([path for path, _ in files], size)
    targets = np.array([k for _, k in files])
    whole = from_arrays(inputs, targets, "images", mean=mean, std=std)
    return whole if apart else _part(whole, split, seed, validation, test)


def _part(whole: Dataset, split: Split, seed: int, validation: float, test: float) -> Dataset:
    if validation == test == 0:
        return whole
    return part_by_share(whole, split, validation=validation, test=test, seed=seed)


def _load_pair(path: Path, split: str) -> tuple[bool, np.ndarray, np.ndarray]:
    try:
        archive = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} can't be read as an npz file: {error}.") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError(f"{path} is a single array; an npz file with two is needed.")
    with archive:
        x, y = _array_names(archive.files, split, path)
        try:
            return x == f"x_{split}", archive[x], archive[y]
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(
                f"{path} is damaged, or holds Python objects (never loaded): {error}."
            ) from error


def _array_names(there: list[str], split: str, path: Path) -> tuple[str, str]:
    apart = any(f"x_{name}" in there for name in SPLITS)
    pairs = ((f"x_{split}", f"y_{split}"),) if apart else _PAIRS
    for x, y in pairs:
        if x in there and y in there:
            return x, y
    wanted = " or ".join(f"`{x}` and `{y}`" for x, y in pairs)
    raise ValueError(
        f"{path} has no arrays {wanted} for the split `{split}`; it has {', '.join(there)}."
    )


def _image_files(folder: Path) -> list[Path]:
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
