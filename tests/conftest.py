"""What all tests share."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

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


def seeded(seed: int = 0) -> torch.Generator:
    """A CPU generator with this seed."""
    return torch.Generator().manual_seed(seed)
