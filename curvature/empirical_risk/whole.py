"""A loss that takes ``(model, batch)`` whole: its mean over a batch, and what the batch weighs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from curvature.derivatives.products import gradient
from curvature.empirical_risk.nested import leading_dimensions, uneven_parts
from curvature.losses import NO_MEAN, check_additive, not_additive

_NAME = "loss(model, batch)"
_SLOPE = 1e-2  # between gradients, relative to the sum of their lengths


@dataclass(frozen=True)
class WholeLoss:
    """``function(model, batch)`` returns a mean, one number per example, or (mean, weight)."""

    function: Callable[[nn.Module, Any], Any]
    only_one_batch: bool  # whose weight doesn't matter

    def sum_and_weight(self, model: nn.Module, part: Any) -> tuple[Tensor, Tensor]:
        """Σω · mean, differentiable, and Σω."""
        mean, weight, _ = self._called(model, part)
        # the mean over nothing is NaN, and NaN · 0 is not 0
        total = mean * weight if weight else mean.new_zeros(())
        return total, torch.as_tensor(weight)

    def check(self, model: nn.Module, batch: Any, leaves: Sequence[Tensor]) -> None:
        """Refuse a random loss, and a mean over a batch that isn't the mean over its examples.

        Gradients are compared: where all examples have about the same loss, values say nothing.
        """
        mean, _, is_plain = self._called(model, batch)
        if examples_of(batch) < 2 or not is_plain:
            return
        if not torch.allclose(mean, self._called(model, batch)[0], rtol=1e-4, equal_nan=True):
            raise ValueError(
                "`loss(model, batch)` gives different values for the same batch: the model or the "
                "loss draws random numbers. Make it deterministic in evaluation mode."
            )
        self.check_sum(model, batch)
        whole, *parts = (
            torch.cat([g.reshape(-1) for g in gradient(self.sum_and_weight(model, b)[0], leaves)])
            for b in (batch, *uneven_parts(batch, examples_of(batch)))
        )
        gap = float((whole - parts[0] - parts[1]).norm())
        if gap > _SLOPE * sum(float(g.norm()) for g in (whole, *parts)):
            raise not_additive(_NAME, NO_MEAN)

    def check_sum(self, model: nn.Module, batch: Any) -> None:
        """Refuse a plain mean over a batch that isn't the mean of its parts' means, weighed."""
        mean, weight, is_plain = self._called(model, batch)
        n = examples_of(batch)
        if n < 2 or not is_plain:
            return
        found = [self.sum_and_weight(model, part) for part in uneven_parts(batch, n)]
        sums, sizes = (
            [float(total.detach()) for total, _ in found],
            [int(size) for _, size in found],
        )
        check_additive(_NAME, float(mean.detach()) * weight, sums, sizes)

    def _called(self, model: nn.Module, part: Any) -> tuple[Tensor, Any, bool]:
        """The mean, its weight, and whether that was only counted, and matters."""
        value = self.function(model, part)
        if isinstance(value, Tensor) and value.numel() > 1:  # one number per example
            return value.mean(), value.numel(), not self.only_one_batch
        mean, weight = value if isinstance(value, tuple) else (value, self._examples(part))
        if not isinstance(mean, Tensor) or mean.numel() != 1:
            raise TypeError(
                "`loss(model, batch)` must return a mean, one number per example, or (mean, "
                f"weight); got {tuple(mean.shape) if isinstance(mean, Tensor) else _kind(mean)}."
            )
        return mean.reshape(()), weight, not isinstance(value, tuple) and not self.only_one_batch

    def _examples(self, part: Any) -> int:
        n = examples_of(part)
        if not n and not self.only_one_batch:
            raise ValueError(
                f"A {type(part).__name__} doesn't tell how many examples it holds, so batches "
                "could not be weighed. Let `loss(model, batch)` return (mean, weight)."
            )
        return n or 1


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"


def examples_of(batch: Any) -> int:
    """The length that all tensors in a batch share; 0 where they don't."""
    lengths = leading_dimensions(batch)
    return lengths.pop() if len(lengths) == 1 else 0


def named_whole(function: Callable[[nn.Module, Any], Any]) -> Callable[[nn.Module, Any], Any]:
    """The same with a first parameter whose name says that it takes the model."""

    def whole(model: nn.Module, batch: Any) -> Any:
        return function(model, batch)

    return whole
