"""Corrupted images made when they are first asked for, and kept on disk."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from curvature.datasets.corruptions import VERSION, corrupt


def blocks(
    clean: np.ndarray,
    indices: Sequence[int],
    pairs: Sequence[tuple[str, int]],
    *,
    seed: int,
    cache: str | None,
    report: Callable[[str], None] | None = None,
) -> Iterator[np.ndarray]:
    """For each (kind, severity) the corrupted ``clean`` (N, 32, 32, 3), read or made.

    A file holds one of them, under a key of all that it depends on; one that is damaged is made
    anew, and an interrupted work goes on where it stopped.
    """
    folder = cache_folder(cache) / "cifar10c-style" / _key(clean, indices, seed)
    for i, (kind, severity) in enumerate(pairs):
        path = folder / f"{kind}-{severity}.npy"
        images = _read(path, clean.shape)
        if images is None:
            if report is not None:
                report(f"making {kind} {severity} ({i + 1} of {len(pairs)}): {path}")
            images = corrupt(clean, kind, severity, seed=seed, indices=indices)
            _write(path, images)
        yield images


def cache_folder(cache: str | None = None) -> Path:
    """``cache``, else $XDG_CACHE_HOME/curvature, else ~/.cache/curvature."""
    if cache is not None:
        return Path(cache).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "curvature"


def _key(clean: np.ndarray, indices: Sequence[int], seed: int) -> str:
    digest = hashlib.sha256(repr((VERSION, seed, list(indices))).encode())
    digest.update(np.ascontiguousarray(clean).data)
    return digest.hexdigest()[:12]


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    try:
        images: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return images if images.shape == shape and images.dtype == np.uint8 else None


def _write(path: Path, images: np.ndarray) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                np.save(file, images)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(
            f"The generated images can't be kept in {path.parent}: {error.strerror or error}. "
            "Name another folder with cache=DIR."
        ) from error
