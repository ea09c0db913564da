"""Where rows may go while a run goes on, beside its files: TensorBoard, Weights & Biases."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from curvature.runs.rows import TRACKING, Row

Sink = Callable[[Row], object]

_ERRORS = ("standard_error", "residual")  # of a measured value, worth a curve of their own


def tensorboard_sink(folder: str | os.PathLike[str]) -> Sink:
    """A sink that writes every number of a row into ``folder``, at the row's step."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ModuleNotFoundError(
            "TensorBoard isn't installed: pip install 'curvature-toolkit[tensorboard]'."
        ) from None
    writers: list[SummaryWriter] = []  # made with the first row: a run may be refused before

    def write(row: Row) -> None:
        if not writers:
            writers.append(SummaryWriter(os.fspath(folder)))
        for name, value in scalars(row).items():
            writers[0].add_scalar(name, value, row["step"])
        writers[0].flush()

    return write


def wandb_sink(run: Any = None, **settings: Any) -> Sink:
    """A sink that logs the numbers of a row to ``run``, to the present run, or to a new one.

    A new one is begun with the first row, by ``wandb.init(**settings)``. The numbers have
    `curvature/step` as their axis; into someone else's run they go with its own next ``log``.
    """
    try:
        import wandb  # noqa: F401
    except ImportError:
        raise ModuleNotFoundError(
            "Weights & Biases isn't installed: pip install 'curvature-toolkit[wandb]'."
        ) from None
    return _WandbSink(run, settings)


class _WandbSink:
    def __init__(self, run: Any, settings: Mapping[str, Any]) -> None:
        self._given, self._settings = run, settings
        self._run: Any = None
        self._own = False

    def __call__(self, row: Row) -> None:
        numbers = {f"curvature/{name}": value for name, value in scalars(row).items()}
        if not numbers:
            return
        if self._run is None:
            self._begin()
        # committing in someone else's run would move the step that its owner counts
        self._run.log({**numbers, "curvature/step": row["step"]}, commit=self._own)

    def _begin(self) -> None:
        import wandb

        self._own = self._given is None and wandb.run is None
        self._run = wandb.init(**self._settings) if self._own else self._given or wandb.run
        self._run.define_metric("curvature/step")
        self._run.define_metric("curvature/*", step_metric="curvature/step")


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row by name: of a measured one its value and errors, else all there are.

    >>> scalars({"metric": "trace", "step": 3, "value": 2.5, "standard_error": 0.1, "index": 0})
    {'trace': 2.5, 'trace/standard_error': 0.1}
    """
    metric = row.get("metric")
    if metric is None:
        found = {name: value for name, value in row.items() if name != "step"}
    else:
        if row.get("analysis") not in (None, TRACKING):  # a second tracker beside the first
            metric = f"{row['analysis']}/{metric}"
        found = {metric: row["value"]} | {f"{metric}/{e}": row.get(e) for e in _ERRORS}
        found = found if row["value"] is not None else {}
    return {name: value for name, value in found.items() if isinstance(value, int | float)}
