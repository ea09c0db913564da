"""What all tests share."""

import io
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

torch.set_num_threads(1)
# A shell without job control ignores it in what it puts in the background, and so would every
# process that a test begins.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]


def shared_data() -> Path | None:
    """The folder of real data: $CURV_DATA, or ../shared/data beside the checkout."""
    for path in (os.environ.get("CURV_DATA"), ROOT.parent / "shared" / "data"):
        if path and Path(path).is_dir():
            return Path(path)
    return None


@pytest.fixture(scope="session")
def real_data() -> Path:
    path = shared_data()
    if path is None:
        pytest.skip("needs the real CIFAR-10 data: set CURV_DATA, or place it in ../shared/data")
    return path


@pytest.fixture(scope="session")
def real_cifar10(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the first 2,000 training and 1,000 test images of CIFAR-10, binary layout."""
    folder = tmp_path_factory.mktemp("cifar10") / "cifar-10-batches-bin"
    folder.mkdir()
    train = _records(real_data / "cifar10" / "cifar10_train_jpeg.npz", 2000)
    for k in range(5):
        train[k * 400 : (k + 1) * 400].tofile(folder / f"data_batch_{k + 1}.bin")
    _records(real_data / "cifar10" / "cifar10_test_jpeg.npz", 1000).tofile(
        folder / "test_batch.bin"
    )
    return folder.parent


def _records(packed: Path, count: int) -> np.ndarray:
    """A label byte and 3,072 bytes of pixels (three planes) for each of the first images."""
    records = np.empty((count, 3073), np.uint8)
    with np.load(packed) as archive:
        jpeg, offsets = archive["jpeg"], archive["offsets"]
        records[:, 0] = archive["labels"][:count]
    for i in range(count):
        with Image.open(io.BytesIO(jpeg[offsets[i] : offsets[i + 1]].tobytes())) as image:
            records[i, 1:] = np.asarray(image.convert("RGB")).transpose(2, 0, 1).reshape(-1)
    return records


def seeded(seed: int = 0) -> torch.Generator:
    """A CPU generator with this seed."""
    return torch.Generator().manual_seed(seed)
