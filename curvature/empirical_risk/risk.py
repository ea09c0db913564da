"""The empirical risk L(w) = Σ_i ω_i ℓ(f(x_i; w), y_i) / Σ_i ω_i of a network on given examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from curvature.derivatives.products import gradient
from curvature.empirical_risk.batches import as_batches, content_hash, moved, part_of
from curvature.empirical_risk.checks import check_independent, check_repeatable
from curvature.empirical_risk.evaluation import call_model, evaluating
from curvature.empirical_risk.model import subject
from curvature.losses import (
    Loss,
    as_function,
    as_loss,
    check_reduction,
    examples_in,
    takes_the_model,
)

Mode = Literal["eval", "train"]
BatchLoss = Callable[[nn.Module, Any], Any]
_FEW = 8  # examples on which the checks are made


@dataclass(frozen=True)
class Survey:
    """What one forward pass over all batches tells: L(w), Σω and the number of examples."""

    value: float
    weight: float
    examples: int


class EmpiricalRisk:
    """L(w), its gradient and the network's outputs; without the L2 term.

    ``params``: name patterns (fnmatch) of the trainable parameters to differentiate by; all by
    default. ``batch_size`` cuts a pair of tensors into batches; ``micro_batch`` bounds the examples
    in memory and changes no number beyond rounding. ``mode="train"``: BatchNorm as in training.
    A loss whose first parameter is named ``model`` is a whole ``loss(model, batch)``.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Any,
        batches: Any,
        *,
        params: Sequence[str] = (),
        batch_size: int = 128,
        micro_batch: int | None = None,
        dtype: torch.dtype | None = None,
        mode: Mode = "eval",
        tf32: bool = False,
        whole_loss: bool | None = None,
    ) -> None:
        if micro_batch is not None and micro_batch < 1:
            raise ValueError(f"`micro_batch` must be at least 1, got {micro_batch}.")
        if whole_loss is None:
            whole_loss = takes_the_model(loss)
        chosen = subject(model, params, dtype)
        self.model, self.params, self.notes = chosen.model, chosen.params, chosen.notes
        self.dtype = chosen.dtype
        self.batches = as_batches(batches, batch_size, whole=whole_loss)
        self.micro_batch = micro_batch
        self.mode: Mode = mode
        self.tf32 = tf32
        self.loss: Loss | None = None if whole_loss else as_loss(loss)
        self._batch_loss: BatchLoss | None = as_function(loss) if whole_loss else None
        self._leaves = list(self.params.values())
        self.device = self._leaves[0].device
        ends = torch.tensor([p.numel() for p in self._leaves]).cumsum(0).tolist()
        self.size: int = ends[-1]
        self.layout: dict[str, slice] = {
            name: slice(end - p.numel(), end)
            for end, (name, p) in zip(ends, self.params.items(), strict=True)
        }

    @classmethod
    def from_batch_loss(
        cls, model: nn.Module, batch_loss: BatchLoss, batches: Any, **options: Any
    ) -> EmpiricalRisk:
        """The risk of a ``batch_loss(model, batch)`` that returns its mean, or (mean, weight).

        Outputs and targets stay unknown, so there is no Gauss–Newton matrix.
        """
        return cls(model, batch_loss, batches, whole_loss=True, **options)

    def evaluating(self) -> AbstractContextManager[None]:
        """The state in which everything is computed: mode, kernels, precision."""
        return evaluating(self.model, training=self.mode == "train", tf32=self.tf32)

    @cached_property
    def survey(self) -> Survey:
        """One forward pass over all batches; refuses what would make the numbers wrong.

        Raises:
            ValueError: if the model is random or its examples depend on each other.
            FloatingPointError: if the loss is not finite.
        """
        total, weight, examples = 0.0, 0.0, 0
        with self.evaluating(), torch.no_grad():
            for index, batch in enumerate(self.batches):
                if index == 0:
                    self._check(batch)
                for part in self.parts(batch):
                    sum_, part_weight = self._sum_and_weight(part)
                    total += float(sum_)
                    weight += float(part_weight)
                    examples += examples_in(part)
        if not weight > 0:
            raise ValueError("No example counts: the weights of all batches are zero.")
        value = total if self.reduction == "sum" else total / weight
        if value != value or value in (float("inf"), float("-inf")):
            raise FloatingPointError(f"The loss is {value} at these weights: the run diverged.")
        return Survey(value, weight, examples)

    @property
    def reduction(self) -> str:
        """How examples add up: "mean" or "sum"."""
        return self.loss.reduction if self.loss else "mean"

    @property
    def scale(self) -> float:
        """The factor of a sum over examples: 1/Σω, or 1 where the loss is a sum."""
        return 1.0 if self.reduction == "sum" else 1.0 / self.survey.weight

    @property
    def value(self) -> float:
        """L(w)."""
        return self.survey.value

    def gradient(self) -> Tensor:
        """∇L(w), (n,)."""
        total = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        for part in self.all_parts():
            total += self.flatten(gradient(self.loss_sum(part), self._leaves))
        return total * self.scale

    def weights(self) -> Tensor:
        """w, (n,): a copy."""
        return self.flatten(p.detach() for p in self._leaves)

    def all_parts(self) -> Iterator[Any]:
        """The micro-batches of all batches in order, inside ``evaluating``."""
        with self.evaluating():
            for batch in self.batches:
                yield from self.parts(batch)

    def parts(self, batch: Any) -> Iterator[Any]:
        """The micro-batches of one batch, on the model's device and in its dtype."""
        n = examples_in(batch)
        step = n if self.micro_batch is None or self.loss is None else self.micro_batch
        if step >= n:
            yield moved(batch, self.device, self.dtype)
            return
        for start in range(0, n, step):
            yield moved(part_of(batch, start, start + step, n), self.device, self.dtype)

    def few(self, batch: Any, count: int) -> tuple[Any, int]:
        """The first ``count`` examples of a batch, all where it must stay whole; and how many."""
        n = examples_in(batch)
        if self.loss is None or self.mode == "train" or n <= count:
            return batch, n
        return part_of(batch, 0, count, n), count

    @cached_property
    def largest_part(self) -> int:
        """Examples in the largest micro-batch."""
        largest = max(examples_in(batch) for batch in self.batches)
        return largest if self.loss is None else min(largest, self.micro_batch or largest)

    @cached_property
    def data_hash(self) -> str:
        """Twelve hexadecimal digits over the contents of all batches in order."""
        return content_hash(self.batches)

    def outputs(self, part: Any) -> Tensor:
        """f(x; w) of a micro-batch."""
        return call_model(self.model, part[0])

    def loss_sum(self, part: Any) -> Tensor:
        """Σ_i ω_i ℓ_i of a micro-batch, differentiable by the parameters."""
        return self._sum_and_weight(part)[0]

    def split(self, v: Tensor) -> list[Tensor]:
        """A flat vector (n,) as tensors in the parameters' shapes and dtypes."""
        return [
            v[where].view_as(p).to(p.dtype)
            for where, p in zip(self.layout.values(), self._leaves, strict=True)
        ]

    def flatten(self, tensors: Iterable[Tensor]) -> Tensor:
        """Tensors in the parameters' order as one flat vector (n,)."""
        return torch.cat([t.reshape(-1).to(self.dtype) for t in tensors])

    @property
    def leaves(self) -> list[Tensor]:
        """The parameters themselves, in the order of ``layout``."""
        return list(self._leaves)

    def _sum_and_weight(self, part: Any) -> tuple[Tensor, Tensor]:
        if self.loss is not None:
            outputs = self.outputs(part)
            return self.loss.sum(outputs, part[1]), self.loss.weight(outputs, part[1])
        assert self._batch_loss is not None
        value = self._batch_loss(self.model, part)
        mean, weight = value if isinstance(value, tuple) else (value, examples_in(part))
        if not isinstance(mean, Tensor) or mean.numel() != 1:
            raise TypeError(
                "`loss(model, batch)` must return a scalar tensor, or (mean, weight); got "
                f"{tuple(mean.shape) if isinstance(mean, Tensor) else type(mean).__name__}."
            )
        weight = torch.as_tensor(weight, device=mean.device)
        return mean.reshape(()) * weight if weight else mean.new_zeros(()), weight

    def _check(self, batch: Any) -> None:
        if self.loss is None:
            return
        n = examples_in(batch)
        few = moved(part_of(batch, 0, _FEW, n), self.device, self.dtype)
        check_repeatable(self.model, few)
        outputs = self.outputs(few)
        check_reduction(self.loss, outputs, few[1])
        if len(self.batches) > 1 or (self.micro_batch or n) < n:
            check_independent(self.model, few)
