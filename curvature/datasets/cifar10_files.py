"""Where CIFAR-10 lies on disk, in which of its layouts, and the bytes of its files.

Layouts: https://www.cs.toronto.edu/~kriz/cifar.html (binary and python version), as folders or
as the tar.gz archives, which are read without being unpacked.
"""

import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curvature.datasets.unpickle import read_pickle

PIXELS = 3 * 32 * 32
OFFICIAL = {"train": 50_000, "test": 10_000}
_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
_LAYOUTS = (("cifar-10-batches-bin", ".bin"), ("cifar-10-batches-py", ""))
_ARCHIVES = {"cifar-10-binary.tar.gz": ".bin", "cifar-10-python.tar.gz": ""}


@dataclass(frozen=True)
class Source:
    """A folder or an archive that holds CIFAR-10; ``suffix`` of its files: ".bin", or none."""

    path: Path
    suffix: str

    def read(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Images (N, 3, 32, 32) and labels (N,), both uint8, of the part ``train`` or ``test``."""
        names = [
            f"{name}{self.suffix}" for name in (_TRAIN if part == "train" else ("test_batch",))
        ]
        parse = _binary if self.suffix else _pickled
        files = {name: parse(content, where) for name, where, content in self._contents(names)}
        ordered = [files[name] for name in names]
        images = np.concatenate([pixels for pixels, _ in ordered])
        labels = np.concatenate([labels for _, labels in ordered])
        return images.reshape(-1, 3, 32, 32), labels

    def _contents(self, names: Sequence[str]) -> Iterator[tuple[str, str, bytes]]:
        if self.path.is_dir():
            for name in names:
                yield name, str(self.path / name), _bytes_of(self.path / name)
            return
        found = set()
        try:
            with tarfile.open(self.path, "r:*") as archive:
                for member in archive:
                    name = Path(member.name).name
                    if name in names and member.isfile():
                        found.add(name)
                        content = archive.extractfile(member)
                        assert content is not None  # of a regular file it never is
                        yield name, f"{self.path}:{member.name}", content.read()
                _read_to_the_end(archive)
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise ValueError(
                f"{self.path} can't be read: {error}. Is the download complete?"
            ) from error
        missing = [name for name in names if name not in found]
        if missing:
            raise ValueError(f"{self.path} holds no {missing[0]}: is it CIFAR-10, and complete?")


def find(directory: str | Path) -> Source | None:
    """CIFAR-10 in ``directory``, in a folder or archive there, or the archive itself."""
    path = Path(directory).expanduser()
    if path.is_file():
        return Source(path, ".bin" if "binary" in path.name else "") if _is_archive(path) else None
    for folder in (path, *(path / name for name, _ in _LAYOUTS)):
        for suffix in (".bin", ""):
            if any((folder / f"{name}{suffix}").is_file() for name in (*_TRAIN, "test_batch")):
                return Source(folder, suffix)
    for name, suffix in _ARCHIVES.items():
        if (path / name).is_file():
            return Source(path / name, suffix)
    return None


def locate(directory: str | Path) -> Source:
    """As ``find``.

    Raises:
        ValueError: if CIFAR-10 isn't there; the message says what was looked for.
    """
    source = find(directory)
    if source is None:
        there = "is not a folder" if not Path(directory).expanduser().is_dir() else "holds none"
        raise ValueError(
            f"There is no CIFAR-10 in {directory}: it {there}. Looked for data_batch_1.bin or "
            f"data_batch_1, in it or in its {' or '.join(name for name, _ in _LAYOUTS)}, and for "
            f"{' or '.join(_ARCHIVES)} (from https://www.cs.toronto.edu/~kriz/cifar.html)."
        )
    return source


def _is_archive(path: Path) -> bool:
    return path.name.endswith((".tar.gz", ".tgz", ".tar"))


def _read_to_the_end(archive: tarfile.TarFile) -> None:
    """Only at its end is a compressed file's checksum compared."""
    assert archive.fileobj is not None  # of an open archive
    while archive.fileobj.read(1 << 20):
        pass


def _bytes_of(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"{path} is missing: all five data_batch files and test_batch are needed.")
    return path.read_bytes()


def _binary(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    record = PIXELS + 1
    if len(content) == 0 or len(content) % record:
        raise ValueError(
            f"{where} has {len(content):,} bytes, no whole number of records of {record} bytes: "
            "it is truncated, or no CIFAR-10 file."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    return records[:, 1:], _checked(records[:, 0], where)


def _pickled(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    batch = read_pickle(content, where)
    missing = [key for key in ("data", "labels") if key not in batch]
    if missing:
        raise ValueError(f"{where} has no `{missing[0]}`: it is no file of CIFAR-10.")
    pixels, labels = batch["data"], np.asarray(batch["labels"])
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        raise ValueError(f"{where} is damaged: its `data` is no array of bytes.")
    if pixels.ndim != 2 or pixels.shape[1] != PIXELS or labels.shape != pixels.shape[:1]:
        raise ValueError(
            f"{where} is damaged: `data` of shape {pixels.shape} and labels of shape "
            f"{labels.shape}, expected (N, {PIXELS}) and (N,)."
        )
    return pixels, _checked(labels, where)


def _checked(labels: np.ndarray, where: str) -> np.ndarray:
    if len(labels) == 0:
        raise ValueError(f"{where} has no examples.")
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() > 9:
        worst = next(label for label in labels.tolist() if label not in range(10))
        raise ValueError(f"{where} is damaged: it has the label {worst!r}, where 0…9 are.")
    return labels.astype(np.uint8)
