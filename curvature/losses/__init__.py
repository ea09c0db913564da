"""Losses as sums over examples, bundled ones by name and anyone's own."""

from curvature.losses.adapt import as_loss, check_additive, check_reduction, examples_in, whole_loss
from curvature.losses.loss import Loss
from curvature.losses.named import LOSSES

__all__ = [
    "LOSSES",
    "Loss",
    "as_loss",
    "check_additive",
    "check_reduction",
    "examples_in",
    "whole_loss",
]
