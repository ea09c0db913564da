"""λ_max, Tr(H) and the edge of stability along anyone's training."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from curvature._version import __version__
from curvature.empirical_risk import EmpiricalRisk
from curvature.empirical_risk.evaluation import random_state_kept
from curvature.operators import RiskOperator, hessian
from curvature.operators.ways import Way
from curvature.optimizers import stability_threshold
from curvature.runs.folder import RunFolder
from curvature.runs.rows import TRACKING, Row
from curvature.runs.table import read_rows, write_rows
from curvature.runs.weights import weights_hash
from curvature.tracking.batches import taken
from curvature.tracking.measuring import METRICS, diverged_rows, measured_rows, threshold_row


class CurvatureTracker:
    """Measures every so many steps, on fixed batches; training goes on bitwise as without it.

    ``budget``: products with H that a measurement may take. ``max_share``: of the time since the
    first step, beyond which measurements are put off. ``batches``: of ``data``, taken once.
    ``out``: the folder of a run, whose rows are in ``out``/rows. ``sinks`` are called with each
    row. ``about``: further columns. ``model=None``: the one that the callback is called with.
    Further options are those of `EmpiricalRisk`. Under DDP rank 0 measures, on its own batches.
    """

    def __init__(
        self,
        model: nn.Module | None,
        loss: Any,
        data: Any,
        *,
        every: int = 100,
        budget: int = 20,
        max_share: float | None = None,
        metrics: Sequence[str] = METRICS,
        batches: int | None = None,
        optimizer: Optimizer | None = None,
        out: str | Path | None = None,
        sinks: Sequence[Callable[[Row], object]] = (),
        run: str | None = None,
        name: str = TRACKING,
        about: Mapping[str, Any] | None = None,
        rtol: float = 0.02,
        seed: int = 0,
        **options: Any,
    ) -> None:
        self.metrics = tuple(dict.fromkeys([metrics] if isinstance(metrics, str) else metrics))
        _check(every, budget, max_share, self.metrics, rtol)
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.data = taken(data, batches)
        self.every, self.budget, self.max_share = every, budget, max_share
        self.sinks, self.name, self.about = tuple(sinks), name, dict(about or {})
        self.rtol, self.seed, self.options = rtol, seed, options
        self.run = run or (Path(out).resolve().name if out is not None else None)
        self.path = None if out is None else RunFolder(Path(out)).rows(name)
        if model is not None:
            EmpiricalRisk(model, loss, self.data, **options)  # refuses what it can at once
        self.rows: list[Row] = []
        self.seconds = 0.0  # that measuring took so far
        self._begun: float | None = None
        self._last_cost = 0.0
        self._last_step: int | None = None
        self._due = False
        self._kept: list[Row] = []  # of the file, from before
        self._start: Tensor | None = None
        self._way: tuple[nn.Module, Way | None] | None = None
        self._data_hash: str | None = None

    def step(
        self, step: int, optimizer: Optimizer | None = None, *, model: nn.Module | None = None
    ) -> list[Row]:
        """Tell that ``step`` steps are done; the new rows, none where nothing is due."""
        if self._last_step is not None and step < self._last_step:
            raise ValueError(
                f"Step {step} comes after step {self._last_step}: count steps over all epochs, and "
                "make a new tracker for another run."
            )
        if not self._is_due(step):
            return []
        model = self.model or model
        if model is None:
            raise ValueError("The tracker has no `model`: give one, to it or to this call.")
        _refuse_sharded(model)
        if not _is_first_rank():
            return []
        begun = time.perf_counter()
        with random_state_kept():
            rows = self._measured(step, model, optimizer or self.optimizer)
        self._last_cost = time.perf_counter() - begun
        self.seconds += self._last_cost
        self._keep(step, rows)
        for row in rows:
            for sink in self.sinks:
                sink(row)
        return rows

    def __call__(self, step: int, model: nn.Module, optimizer: Optimizer) -> list[Row]:
        """As a callback of `training.train`."""
        return self.step(step, optimizer, model=model)

    def _is_due(self, step: int) -> bool:
        now = time.perf_counter()
        self._begun = now if self._begun is None else self._begun
        if step == self._last_step:
            return False
        self._due = self._due or step % self.every == 0
        if not self._due:
            return False
        if self.max_share is not None and self._last_step is not None:
            after = self.seconds + self._last_cost
            if after > self.max_share * (now - self._begun + self._last_cost):
                return False
        self._due, self._last_step = False, step
        return True

    def _measured(self, step: int, model: nn.Module, optimizer: Optimizer | None) -> list[Row]:
        risk = EmpiricalRisk(model, self.loss, self.data, **self.options)
        if self.run is None:
            self.run = weights_hash({name: p.detach() for name, p in risk.params.items()})
        try:
            H = self._operator(risk)
            start = (
                self._start if self._start is not None and len(self._start) == risk.size else None
            )
            rows, self._start = measured_rows(
                H,
                self.metrics,
                budget=self.budget,
                rtol=self.rtol,
                seed=self.seed,
                step=step,
                start=start,
            )
            self._way = (risk.model, H.way)
        except FloatingPointError as error:
            rows = diverged_rows(self.metrics, str(error))
        threshold = stability_threshold(optimizer) if optimizer is not None else None
        if threshold is not None and "eigmax" in self.metrics:
            rows.append(threshold_row(threshold))
        about = self._provenance(risk, step)
        return [{**about, **row} for row in rows]

    def _operator(self, risk: EmpiricalRisk) -> RiskOperator:
        """The way that products are formed in is looked for once."""
        H = hessian(risk)
        if self._way is not None and self._way[0] is risk.model:
            H.way = self._way[1]
        return H

    def _provenance(self, risk: EmpiricalRisk, step: int) -> Row:
        if self._data_hash is None:
            self._data_hash = risk.data_hash
        loss = risk.loss.name if risk.loss else getattr(risk.given_loss, "__name__", "loss")
        return {
            "run": self.run,
            "analysis": self.name,
            "step": step,
            "model": type(risk.model).__name__,
            "parameters": risk.size,
            "data_hash": self._data_hash,
            "examples": _examples(risk),
            "loss": loss,
            "reduction": risk.reduction,
            "batchnorm": risk.mode,
            "weight_decay_counted": 0.0,
            "device": str(risk.device),
            "dtype": str(risk.dtype).removeprefix("torch."),
            "tf32": risk.tf32,
            "seed": self.seed,
            "curvature": __version__,
            "torch": torch.__version__,
            **self.about,
        }

    def _keep(self, step: int, rows: list[Row]) -> None:
        """Add to ``rows`` and the file, in which a run that goes on takes back later steps."""
        if not self.rows and self.path is not None and self.path.exists():
            before = read_rows(self.path)
            self._kept = [row for row in before if row["run"] != self.run or row["step"] < step]
        self.rows += rows
        if self.path is not None:
            write_rows(self.path, [*self._kept, *self.rows])


def _examples(risk: EmpiricalRisk) -> int | None:
    try:
        return risk.survey.examples
    except FloatingPointError:
        return None


def _refuse_sharded(model: nn.Module) -> None:
    """One rank alone would wait for ever for the others' shards."""
    kinds = {type(each).__name__ for each in (*model.modules(), *model.parameters())}
    if kinds & {"FullyShardedDataParallel", "DTensor"}:
        raise ValueError(
            "The model's parameters are sharded over processes (FSDP), and one process measures. "
            "Track a run under DistributedDataParallel, or analyse its full checkpoints."
        )


def _is_first_rank() -> bool:
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def _check(
    every: int, budget: int, max_share: float | None, metrics: tuple[str, ...], rtol: float
) -> None:
    if every < 1:
        raise ValueError(f"`every` must be at least 1 step, got {every}.")
    if budget < 4:
        raise ValueError(f"`budget` must be at least 4 products, got {budget}.")
    if max_share is not None and not 0 < max_share <= 1:
        raise ValueError(f"`max_share` lies between 0 and 1, got {max_share}.")
    if not metrics or set(metrics) - set(METRICS):
        raise ValueError(
            f"`metrics` are of {', '.join(METRICS)}, got {', '.join(metrics) or 'none'}."
        )
    if not rtol > 0:
        raise ValueError(f"`rtol` must be above 0, got {rtol}.")
