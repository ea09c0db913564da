"""A loss that takes ``(model, batch)`` whole: its mean over a batch, and what the batch weighs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from curvature.empirical_risk.nested import leading_dimensions, part_of
from curvature.losses import check_additive


@dataclass(frozen=True)
class WholeLoss:
    """``function(model, batch)`` returns a mean, or (mean, weight); a mean counts by examples."""

    function: Callable[[nn.Module, Any], Any]
    only_one_batch: bool  # whose weight doesn't matter

    def sum_and_weight(self, model: nn.Module, part: Any) -> tuple[Tensor, Tensor]:
        """Σω · mean, differentiable, and Σω."""
        value = self.function(model, part)
        mean, weight = value if isinstance(value, tuple) else (value, self._examples(part))
        if not isinstance(mean, Tensor) or mean.numel() != 1:
            raise TypeError(
                "`loss(model, batch)` must return a scalar tensor, or (mean, weight); got "
                f"{tuple(mean.shape) if isinstance(mean, Tensor) else type(mean).__name__}."
            )
        # the mean over nothing is NaN, and NaN · 0 is not 0
        total = mean.reshape(()) * weight if weight else mean.new_zeros(())
        return total, torch.as_tensor(weight)

    def check(self, model: nn.Module, batch: Any) -> None:
        """Refuse a plain mean over a batch that isn't the mean of its parts' means, weighed."""
        n = examples_of(batch)
        value = self.function(model, batch)
        if n < 2 or self.only_one_batch or isinstance(value, tuple):
            return
        again = self.function(model, batch)
        if not torch.allclose(value, again, rtol=1e-4, equal_nan=True):
            raise ValueError(
                "`loss(model, batch)` gives different values for the same batch: the model or the "
                "loss draws random numbers. Make it deterministic in evaluation mode."
            )
        cut = max(1, n // 3)  # uneven, so that a mean of the parts' means is not enough
        parts = [part_of(batch, 0, cut, n), part_of(batch, cut, n, n)]
        sums = [float(self.sum_and_weight(model, part)[0].detach()) for part in parts]
        check_additive("loss(model, batch)", float(value.detach()) * n, sums, [cut, n - cut])

    def _examples(self, part: Any) -> int:
        n = examples_of(part)
        if not n and not self.only_one_batch:
            raise ValueError(
                f"A {type(part).__name__} doesn't tell how many examples it holds, so batches "
                "could not be weighed. Let `loss(model, batch)` return (mean, weight)."
            )
        return n or 1


def examples_of(batch: Any) -> int:
    """The length that all tensors in a batch share; 0 where they don't."""
    lengths = leading_dimensions(batch)
    return lengths.pop() if len(lengths) == 1 else 0


def named_whole(function: Callable[[nn.Module, Any], Any]) -> Callable[[nn.Module, Any], Any]:
    """The same with a first parameter whose name says that it takes the model."""

    def whole(model: nn.Module, batch: Any) -> Any:
        return function(model, batch)

    return whole
