"""A Lightning run with the callback, and one with SAM, beside a plain loop."""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import curvature
from curvature.optimizers import SAM, closure
from tests.conftest import seeded

pl = pytest.importorskip("lightning.pytorch")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The .train_dataloader. does not have many workers"),
]

X = torch.randn(96, 6, generator=seeded(0))
Y = torch.arange(96) % 3
PARTS = list(zip(X.split(32), Y.split(32), strict=True))
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "log_every_n_steps": 1,
}


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(
                nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 3)
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def loader() -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True)


def fitted(*callbacks: Any, logger: Any = False, **options: Any) -> Net:
    torch.manual_seed(7)
    net = Net()
    trainer = pl.Trainer(callbacks=list(callbacks), logger=logger, **QUIET, **options)
    trainer.fit(net, loader())
    return net


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_callback_measures_and_leaves_training_as_it_was(
    accumulate: int, tmp_path: Path
) -> None:
    from curvature.integrations.lightning import CurvatureCallback

    options: dict[str, Any] = {"max_epochs": 1, "accumulate_grad_batches": accumulate}
    callback = CurvatureCallback("cross_entropy", PARTS, every=2, out=tmp_path / "run")
    logger = pl.loggers.CSVLogger(tmp_path, name="log")
    net = fitted(callback, logger=logger, **options)
    plain = fitted(**options)
    for name, value in plain.state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name
    rows = callback.tracker.rows
    steps = list(range(0, 6 // accumulate + 1, 2))
    assert [row["step"] for row in rows if row["metric"] == "eigmax"] == steps
    thresholds = [row["value"] for row in rows if row["metric"] == "stability_threshold"]
    assert thresholds == [pytest.approx(38.0)] * len(steps)
    with open(Path(logger.log_dir) / "metrics.csv") as file:
        logged = [row["curvature/eigmax"] for row in csv.DictReader(file)]
    values = [row["value"] for row in rows if row["metric"] == "eigmax"]
    assert [float(value) for value in logged if value] == pytest.approx(values)
    read = curvature.runs.table.read_table(tmp_path / "run")
    assert [row["value"] for row in read] == [row["value"] for row in rows]


def test_the_numbers_are_of_the_module_asked_for_whatever_the_precision() -> None:
    from curvature.integrations.lightning import CurvatureCallback

    callback = CurvatureCallback(
        "cross_entropy", PARTS, every=3, model=lambda module: module.net, metrics="eigmax"
    )
    net = fitted(callback, max_epochs=1, precision="bf16-mixed")
    row = next(
        row for row in callback.tracker.rows if row["metric"] == "eigmax" and row["step"] == 6
    )
    assert row["value"] == pytest.approx(
        curvature.eigmax(curvature.hessian(net.net, "cross_entropy", PARTS)).value, rel=0.02
    )
    assert row["dtype"] == "float32"
    assert row["model"] == "Sequential"


def test_sam_in_a_manual_loop_is_sam_in_a_plain_one() -> None:
    class WithSAM(Net):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Any:
            step = closure(self.net, F.cross_entropy, [batch])
            loss = self.optimizers().step(closure=step)
            self.lr_schedulers().step()
            return loss.detach()

        def configure_optimizers(self) -> Any:
            optimizer = SAM(torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9), rho=0.1)
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)]

    torch.manual_seed(7)
    net = WithSAM()
    trainer = pl.Trainer(max_epochs=2, logger=False, **QUIET)
    trainer.fit(net, loader())
    assert trainer.global_step == 12

    torch.manual_seed(7)
    plain = Net()
    optimizer = SAM(torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9), rho=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)
    batches = loader()
    for _ in range(2):
        for batch in batches:
            optimizer.step(closure(plain.net, F.cross_entropy, [batch]))
            scheduler.step()
    for name, value in plain.state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name


def test_without_lightning_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, "curvature.integrations.lightning", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'curvature-toolkit\[lightning\]'"):
        importlib.import_module("curvature.integrations.lightning")
