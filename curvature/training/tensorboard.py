"""The rows of history as TensorBoard scalars."""

import os
from collections.abc import Callable

from curvature.training.watch import Row


def tensorboard_sink(folder: str | os.PathLike[str]) -> Callable[[Row], None]:
    """A sink for ``train`` that writes every number of a row of history into ``folder``."""
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
        for name, value in row.items():
            if isinstance(value, int | float) and name != "step":
                writers[0].add_scalar(name, value, row["step"])
        writers[0].flush()

    return write
