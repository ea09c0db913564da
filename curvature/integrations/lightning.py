"""A Lightning callback that tracks curvature: pip install 'curvature-toolkit[lightning]'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from curvature.tracking import CurvatureTracker, scalars

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    raise ModuleNotFoundError(
        "Lightning isn't installed: pip install 'curvature-toolkit[lightning]'."
    ) from None


class CurvatureCallback(Callback):
    """Measures after optimizer steps, as `CurvatureTracker`, and logs to the trainer's loggers.

    ``model`` picks what is differentiated from the LightningModule; by default it whole, called
    by its ``forward``. Options are the tracker's.
    """

    def __init__(
        self,
        loss: Any,
        data: Any,
        *,
        model: Callable[[LightningModule], nn.Module] | None = None,
        **options: Any,
    ) -> None:
        self.tracker = CurvatureTracker(None, loss, data, **options)
        self._pick = model

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure where training begins."""
        self._measure(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Measure where a step was taken and one is due."""
        self._measure(trainer, pl_module)

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        optimizer = trainer.optimizers[0] if len(trainer.optimizers) == 1 else None
        model = self._pick(pl_module) if self._pick else pl_module
        step = trainer.global_step
        rows = self.tracker.step(step, optimizer, model=model)
        found = {f"curvature/{name}": value for row in rows for name, value in scalars(row).items()}
        for logger in trainer.loggers if found else ():
            logger.log_metrics(found, step=step)
