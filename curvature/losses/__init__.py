"""Losses as sums over examples, bundled ones by name and anyone's own."""

from curvature.losses.adapt import (
    NO_MEAN,
    as_loss,
    check_additive,
    check_reduction,
    examples_in,
    not_additive,
    whole_loss,
)
from curvature.losses.loss import Loss
from curvature.losses.named import LOSSES

__all__ = [
    "LOSSES",
    "NO_MEAN",
    "Loss",
    "as_loss",
    "check_additive",
    "check_reduction",
    "examples_in",
    "not_additive",
    "whole_loss",
]
