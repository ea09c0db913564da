"""Two processes that train as one: the first measures, and both go on as without."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from curvature.runs.table import read_table
from curvature.tracking import CurvatureTracker
from tests.conftest import seeded

pytestmark = pytest.mark.distributed

X = torch.randn(40, 4, generator=seeded(0))
Y = torch.arange(40) % 2


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=100),
    )
    tracked, plain = trained(rank, folder), trained(rank, None)
    torch.save((tracked, plain), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def trained(rank: int, folder: str | None) -> list[Tensor]:
    """The weights after five steps, with a tracker where there is a folder for its rows."""
    torch.manual_seed(0)
    model = DistributedDataParallel(
        nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tracker = CurvatureTracker(
        model, "cross_entropy", (X, Y), every=2, optimizer=optimizer, out=f"{folder}/run-{rank}"
    )
    for step in range(5):
        if folder:
            tracker.step(step)
        optimizer.zero_grad()
        mine = slice(rank * 20, rank * 20 + 20)
        F.cross_entropy(model(X[mine]), Y[mine]).backward()
        optimizer.step()
    return [p.detach() for p in model.parameters()]


def test_the_first_rank_measures_and_all_train_as_without(tmp_path: Path) -> None:
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)
    for rank in (0, 1):
        tracked, plain = torch.load(tmp_path / f"{rank}.pt")
        assert all(torch.equal(a, b) for a, b in zip(tracked, plain, strict=True))
    rows = read_table(tmp_path)
    assert [(row["run"], row["step"]) for row in rows[::3]] == [("run-0", s) for s in (0, 2, 4)]
    assert len(rows) == 9
