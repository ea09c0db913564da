"""The published files of CIFAR-10-C: labels.npy and NAME.npy, five severities after each other.

https://zenodo.org/records/2535967; the files are mapped, so only what is taken is read.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from curvature.datasets.corruptions import KINDS, SEVERITIES


def find(path: str | Path) -> Path | None:
    """The folder with the files: ``path``, or CIFAR-10-C in it."""
    root = Path(path).expanduser()
    for folder in (root, root / "CIFAR-10-C"):
        if kinds(folder) or (folder / "labels.npy").is_file():
            return folder
    return None


def kinds(folder: Path) -> list[str]:
    """The kinds of which there is a file."""
    return [kind for kind in KINDS if (folder / f"{kind}.npy").is_file()]


def labels(folder: Path) -> np.ndarray:
    """The labels of one severity, which are those of the other four."""
    path = folder / "labels.npy"
    every = _mapped(path)
    if every.ndim != 1 or every.dtype.kind not in "iu" or len(every) % len(SEVERITIES):
        raise ValueError(
            f"{path} is damaged: {every.dtype} of shape {every.shape}, where the labels of five "
            "equal blocks are."
        )
    blocks = np.array(every).reshape(len(SEVERITIES), -1)
    if blocks.size == 0 or blocks.min() < 0 or blocks.max() > 9 or (blocks != blocks[0]).any():
        raise ValueError(
            f"{path} is damaged: expected five times the same labels, each from 0 to 9."
        )
    first: np.ndarray = blocks[0].astype(np.uint8)
    return first


def blocks(
    folder: Path, pairs: Sequence[tuple[str, int]], count: int, chosen: np.ndarray
) -> Iterator[np.ndarray]:
    """For each (kind, severity) the images ``chosen`` of the ``count``: (N, 32, 32, 3)."""
    for kind, severity in pairs:
        path = folder / f"{kind}.npy"
        images = _mapped(path)
        expected = (len(SEVERITIES) * count, 32, 32, 3)
        if images.shape != expected or images.dtype != np.uint8:
            raise ValueError(
                f"{path} holds {images.dtype} of shape {images.shape}; labels.npy is for bytes "
                f"of shape {expected}."
            )
        yield images[(severity - 1) * count + chosen]


def _mapped(path: Path) -> np.ndarray:
    if not path.is_file():
        raise ValueError(f"{path} is missing.")
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} can't be read: {error}. Is the download complete?") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} is no single array.")
    return array
