"""The learning rate over time: linear warm-up, then constant or a cosine to zero."""

import math
from collections.abc import Callable

from curvature.runs.config import RunConfig


def schedule(config: RunConfig, *, steps: int, steps_per_epoch: int) -> Callable[[int], float]:
    """η of step t = 0, 1, …: η (t+1)/W in the W steps of warm-up, then η or η (1 + cos πs)/2.

    s runs from 0 after the warm-up to 1 at the end of ``steps``.
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if warmup >= max(steps, 1) and config.warmup_epochs > 0:
        raise ValueError(
            f"`warmup_epochs` = {config.warmup_epochs:g} is {warmup} steps, and the run has "
            f"{steps}: nothing is left after the warm-up."
        )

    def rate(t: int) -> float:
        if t < warmup:
            return config.lr * (t + 1) / warmup
        if config.schedule == "constant":
            return config.lr
        return config.lr * 0.5 * (1 + math.cos(math.pi * (t - warmup) / (steps - warmup)))

    return rate


def is_constant(config: RunConfig) -> bool:
    """The learning rate is left to the optimizer."""
    return config.schedule == "constant" and config.warmup_epochs == 0
