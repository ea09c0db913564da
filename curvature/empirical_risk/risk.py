"""The empirical risk L(w) = Σ_i ω_i ℓ(f(x_i; w), y_i) / Σ_i ω_i of a network on given examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from curvature.derivatives.products import gradient
from curvature.display import html_table
from curvature.empirical_risk.batches import as_batches, can_be_cut, examples
from curvature.empirical_risk.checks import check_independent, check_repeatable, check_sum
from curvature.empirical_risk.described import described, in_a_line
from curvature.empirical_risk.evaluation import evaluating
from curvature.empirical_risk.model import subject
from curvature.empirical_risk.nested import digest, moved, part_of, rows_of
from curvature.empirical_risk.outputs import as_returned, call_model, logits_in, logits_of
from curvature.empirical_risk.reach import Representatives, representatives
from curvature.empirical_risk.survey import Survey, Tally, go_over_all, is_attached
from curvature.empirical_risk.whole import WholeLoss, examples_of, named_whole
from curvature.losses import Loss, as_loss, whole_loss

Mode = Literal["eval", "train"]
BatchLoss = Callable[[nn.Module, Any], Any]
FEW = 8  # examples on which the checks are made
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # only the last counts on


class EmpiricalRisk:
    """L(w), its gradient and the network's outputs; without the L2 term.

    ``loss``: of (outputs, targets), or whole, of (model, batch), known by its first parameter.
    ``params``: name patterns (fnmatch) of the trainable parameters to differentiate by; all by
    default. ``batch_size`` cuts a pair of tensors into batches; ``micro_batch`` bounds the examples
    in memory and changes no number beyond rounding. ``mode="train"``: BatchNorm as in training.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Any,
        batches: Any,
        *,
        params: Sequence[str] | str = (),
        batch_size: int = 128,
        micro_batch: int | None = None,
        dtype: torch.dtype | None = None,
        mode: Mode = "eval",
        tf32: bool = False,
    ) -> None:
        if micro_batch is not None and micro_batch < 1:
            raise ValueError(f"`micro_batch` must be at least 1, got {micro_batch}.")
        if mode not in ("eval", "train"):
            raise ValueError(f'`mode` must be "eval" or "train", got {mode!r}.')
        chosen = subject(model, params, dtype)
        self.model, self.params, self.notes = chosen.model, chosen.params, chosen.notes
        self.dtype = chosen.dtype
        whole = whole_loss(loss)
        self.loss: Loss | None = None if whole else as_loss(loss)
        self.batches = as_batches(batches, batch_size, whole=self.loss is None)
        if whole:
            self._whole_loss = WholeLoss(whole, only_one_batch=len(self.batches) == 1)
        self.micro_batch = micro_batch
        self.mode: Mode = mode
        self.tf32 = tf32
        self._inside = False  # of ``evaluating``
        self._surveyed: Survey | None = None
        self._surveyed_at: list[int] = []
        self._begun_at: list[int] = []
        self._weight: float | None = None
        self._representatives: tuple[list[int], Representatives] | None = None
        self._leaves = list(self.params.values())
        self.device = self._leaves[0].device
        self.layout = chosen.layout
        self.size = sum(p.numel() for p in self._leaves)

    @classmethod
    def from_batch_loss(
        cls, model: nn.Module, batch_loss: BatchLoss, batches: Any, **options: Any
    ) -> EmpiricalRisk:
        """The risk of ``batch_loss(model, batch)``, which returns its mean, or (mean, weight).

        Outputs and targets stay unknown: no Gauss–Newton matrix, no ``micro_batch``.
        """
        return cls(model, whole_loss(batch_loss) or named_whole(batch_loss), batches, **options)

    def __repr__(self) -> str:
        return f"EmpiricalRisk, {self.size:,} parameters: {in_a_line(self.described)}"

    def _repr_html_(self) -> str:
        return html_table("EmpiricalRisk", self.described)

    @property
    def described(self) -> dict[str, str]:
        """What is measured, in words; nothing is computed for it."""
        return described(self, self._surveyed)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The state in which everything is computed; entering it inside itself costs nothing."""
        if self._inside:
            with torch.inference_mode(False), torch.enable_grad():
                yield
            return
        with evaluating(self.model, training=self.mode == "train", tf32=self.tf32):
            self._inside = True
            try:
                yield
            finally:
                self._inside = False

    @property
    def survey(self) -> Survey:
        """One forward pass over all batches; refuses what would make the numbers wrong.

        It is made again where parameters or running statistics have changed since; not so by
        ``p.data``, of whose changes PyTorch keeps no count.

        Raises:
            ValueError: if the model is random, its examples depend on each other, or the loss
                isn't a mean over examples.
            FloatingPointError: if the loss is not finite.
        """
        found = self.seen
        if found is None:
            attached = self.begin()
            found = self._surveyed = go_over_all(self, attached=attached)
            self._surveyed_at, self._weight = self.versions(), found.weight
        return found

    def begin(self) -> bool:
        """Refuse what a few examples show to be wrong; what an earlier survey told is forgotten.

        Returns whether the rest may wait for `weight`: not where these few don't show that the
        loss is finite and depends on the parameters, be it only for being padding.
        """
        if self._begun_at == self.versions():
            return True
        batch, as_usual = next(iter(self.batches)), False
        with self.evaluating(), torch.set_grad_enabled(self.loss is None):
            self.check(batch)
            if self.loss is not None:
                loss_sum, weight, _ = self.sum_and_weight(self.few(batch))
                counts = math.isfinite(float(loss_sum)) and float(weight) > 0
                as_usual = counts and can_be_cut(batch) and is_attached(self, batch)
        if as_usual:
            self._begun_at, self._weight = self.versions(), None
        return as_usual

    @property
    def weight(self) -> float:
        """Σω; makes the survey, with its refusals, unless it or `accept` has told since `begin`."""
        if self._weight is None:
            self._weight = self.survey.weight
        return self._weight

    def accept(self, tally: Tally) -> None:
        """Σω, and the survey's refusals, from who saw the outputs of all examples."""
        tally.loss(self.reduction)
        self._weight = tally.weight

    @property
    def seen(self) -> Survey | None:
        """The survey, if there was one at these weights."""
        return self._surveyed if self.versions() == self._surveyed_at else None

    @property
    def given_loss(self) -> Any:
        """The loss as the constructor takes it."""
        return self.loss or self._whole_loss.function

    @property
    def reduction(self) -> str:
        """How examples add up: "mean" or "sum"."""
        return self.loss.reduction if self.loss else "mean"

    @property
    def scale(self) -> float:
        """The factor of a sum over examples: 1/Σω, or 1 where the loss is a sum."""
        weight = self.weight
        return 1.0 if self.reduction == "sum" else 1.0 / weight

    @property
    def value(self) -> float:
        """L(w)."""
        return self.survey.value

    def gradient(self) -> Tensor:
        """∇L(w), (n,)."""
        scale = self.scale  # after the survey's refusals
        with self.evaluating():
            total = torch.zeros(self.size, dtype=self.dtype, device=self.device)
            for part in self.all_parts():
                total += self.flatten(gradient(self.loss_sum(part), self._leaves))
            return total * scale

    def weights(self) -> Tensor:
        """w, (n,): a copy."""
        return self.flatten(p.detach() for p in self._leaves)

    def all_parts(self) -> Iterator[Any]:
        """The micro-batches of all batches in order; to be gone over inside ``evaluating``."""
        # a generator that entered it would leave it only when collected, if its consumer failed
        if not self._inside:
            raise RuntimeError("`all_parts` is gone over inside `with risk.evaluating():`.")
        for batch in self.batches:
            yield from self.parts(batch)

    def parts(self, batch: Any) -> Iterator[Any]:
        """The micro-batches of one batch, on the model's device and in its dtype."""
        n = self.examples_in(batch)
        step = n if self.micro_batch is None or self.loss is None else self.micro_batch
        if step >= n:
            yield moved(batch, self.device, self.dtype)
            return
        if not can_be_cut(batch):
            raise ValueError(
                f"`micro_batch` can't cut a batch whose targets have {n} rows and whose inputs "
                "don't. Put the examples first (batch_first=True), or pass smaller batches."
            )
        for start in range(0, n, step):
            yield moved(part_of(batch, start, start + step, n), self.device, self.dtype)

    def few(self, batch: Any, count: int = FEW) -> Any:
        """The first examples of a batch, to check on; all where it can't be cut."""
        if self.loss is not None and can_be_cut(batch):
            batch = part_of(batch, 0, count, examples(batch))
        return moved(batch, self.device, self.dtype)

    @property
    def representatives(self) -> Representatives:
        """A few examples that reach every parameter that any does; inside ``evaluating``."""
        versions = self.versions()
        if self._representatives is None or self._representatives[0] != versions:
            self._representatives = versions, representatives(self)
        return self._representatives[1]

    def rows(self, batch: Any, chosen: list[int]) -> Any:
        """Chosen examples of a batch that can be cut, on the model's device and in its dtype."""
        return moved(rows_of(batch, chosen, examples(batch)), self.device, self.dtype)

    @property
    def largest_part(self) -> int:
        """Examples in the largest micro-batch."""
        largest = max(self.examples_in(batch) for batch in self.batches)
        return largest if self.loss is None else min(largest, self.micro_batch or largest)

    @property
    def data_hash(self) -> str:
        """Twelve hexadecimal digits over the contents of all batches in order."""
        return digest([digest(batch) for batch in self.batches])[:12]

    def outputs(self, part: Any) -> Tensor:
        """f(x; w) of a micro-batch: the tensor that the model returned, or its logits."""
        return logits_of(call_model(self.model, part[0]))

    def predictions(self, part: Any) -> Any:
        """What the loss takes of f(x; w): a function of one's own, all that the model returned."""
        return self.pick(call_model(self.model, part[0]))

    @property
    def pick(self) -> Callable[[Any], Any]:
        """Of what the model returned, what the loss takes."""
        return as_returned if self.loss and self.loss.structured else logits_of

    def loss_sum(self, part: Any) -> Tensor:
        """Σ_i ω_i ℓ_i of a micro-batch, differentiable by the parameters."""
        if self.loss is not None:
            return self.loss.sum(self.predictions(part), part[1])
        return self._whole_loss.sum_and_weight(self.model, part)[0]

    def split(self, v: Tensor) -> list[Tensor]:
        """A flat vector (n,) as tensors in the parameters' shapes and dtypes."""
        return [
            v[where].view_as(p).to(p.device, p.dtype)
            for where, p in zip(self.layout.values(), self._leaves, strict=True)
        ]

    def flatten(self, tensors: Iterable[Tensor]) -> Tensor:
        """Tensors in the parameters' order as one flat vector (n,)."""
        flat = torch.empty(self.size, dtype=self.dtype, device=self.device)
        for where, t in zip(self.layout.values(), tensors, strict=True):
            flat[where].view(t.shape).copy_(t)  # `reshape` would copy what is transposed
        return flat

    @property
    def leaves(self) -> list[Tensor]:
        """The parameters themselves, in the order of ``layout``."""
        return list(self._leaves)

    def versions(self) -> list[int]:
        """What PyTorch counts of the changes of parameters, and of running statistics in use."""
        statistics = [
            t
            for name, t in self.model.named_buffers()
            if self.mode == "eval" and name.rpartition(".")[2] in _STATISTICS
        ]
        tensors = (*self.model.parameters(), *statistics)
        return [0 if t.is_inference() else t._version for t in tensors]

    def examples_in(self, batch: Any) -> int:
        """How many a batch holds; 0 where that isn't known."""
        return examples_of(batch) if self.loss is None else examples(batch)

    def sum_and_weight(self, part: Any, predictions: Any = None) -> tuple[Tensor, Tensor, Any]:
        """Σ_i ω_i ℓ_i, Σ_i ω_i and predictions of a micro-batch; refuses what doesn't add up."""
        if self.loss is None:
            self._whole_loss.check_sum(self.model, part)
            return *self._whole_loss.sum_and_weight(self.model, part), None
        found = self.predictions(part) if predictions is None else predictions
        check_sum(self.loss, found, part[1])
        return self.loss.sum(found, part[1]), self.loss.weight(found, part[1]), found

    def parts_and_logits(self) -> Iterator[tuple[Any, Tensor | None]]:
        """All micro-batches in order with what the model returns of them, as the survey kept it.

        None where that is no tensor; to be gone over inside ``evaluating``.
        """
        kept = self.survey.outputs
        for index, batch in enumerate(self.batches):
            first = 0
            for part in self.parts(batch):
                if kept is None:
                    with torch.no_grad():
                        yield part, logits_in(self.predictions(part))
                    continue
                last = first + self.examples_in(part)
                yield part, kept[index][first:last]
                first = last

    def check(self, batch: Any) -> None:
        """Refuse what is random, and examples that depend on each other though they are cut."""
        if self.loss is None:
            part = moved(batch, self.device, self.dtype)
            self._whole_loss.check(self.model, part, self._leaves)
            return
        n, few = examples(batch), self.few(batch)
        if check_repeatable(self.model, few, self.pick):
            check_repeatable(self.model, next(self.parts(batch)), self.pick, locate=False)
        if can_be_cut(batch) and (len(self.batches) > 1 or (self.micro_batch or n) < n):
            check_independent(self.model, few, self.pick)
