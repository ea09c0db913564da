"""A small trained-looking checkpoint of ours, and a runner for the command."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from curvature_cli.main import main

from curvature import models
from curvature.runs.checkpoint import Checkpoint, save_checkpoint
from curvature.runs.config import RunConfig


@pytest.fixture
def curv() -> Callable[..., Result]:
    def run(*args: object) -> Result:
        return CliRunner().invoke(main, [str(arg) for arg in args])

    return run


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = models.build(
        "mlp:hidden=8,depth=1",
        input_shape=(1, 8, 8),
        classes=10,
        generator=torch.Generator().manual_seed(0),
    )
    config = RunConfig(model="mlp:hidden=8,depth=1", weight_decay=0.5)
    path = tmp_path_factory.mktemp("run") / "checkpoint.pt"
    save_checkpoint(path, Checkpoint(model.state_dict(), config=config))
    return path
