"""Losses as sums over examples, bundled ones by name and anyone's own."""

from curvature.losses.adapt import (
    as_function,
    as_loss,
    check_reduction,
    examples_in,
    takes_the_model,
)
from curvature.losses.bundled import LOSSES
from curvature.losses.loss import Loss

__all__ = [
    "LOSSES",
    "Loss",
    "as_function",
    "as_loss",
    "check_reduction",
    "examples_in",
    "takes_the_model",
]
