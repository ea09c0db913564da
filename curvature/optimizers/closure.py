"""A closure for one step: the same mini-batch, buffers and random numbers at every point."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel

from curvature.optimizers import ranks

Statistics = Literal["once", "every"]


def closure(
    model: nn.Module,
    loss_fn: Callable[..., Any],
    batches: Iterable[Any],
    *,
    batch_loss: bool = False,
    grad_scaler: GradScaler | None = None,
    autocast: torch.dtype | None = None,
    statistics: Statistics = "once",
    average: bool = True,
    process_group: "dist.ProcessGroup | None" = None,
) -> "StepClosure":
    """∇L of ``batches``, the micro-batches (inputs, targets) of one step, weighted by examples.

    ``loss_fn(outputs, targets)``, or ``loss_fn(model, batch)`` with ``batch_loss``, returns a mean,
    or (mean, weight) where it isn't over examples. Buffers (BatchNorm's statistics) move in the
    first call only, unless ``statistics="every"``; later calls see the first one's random state.
    """
    return StepClosure(
        model,
        loss_fn,
        batches,
        batch_loss,
        grad_scaler,
        autocast,
        statistics,
        average,
        process_group,
    )


class StepClosure:
    """Made by ``closure``; call it as often as the step needs."""

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[..., Any],
        batches: Iterable[Any],
        batch_loss: bool,
        grad_scaler: GradScaler | None,
        autocast: torch.dtype | None,
        statistics: Statistics,
        average: bool,
        process_group: "dist.ProcessGroup | None",
    ) -> None:
        self.model = model
        self.loss_fn = loss_fn
        self.batches = list(batches)
        self.batch_loss = batch_loss
        self.grad_scaler = grad_scaler if grad_scaler and grad_scaler.is_enabled() else None
        self.autocast = autocast
        self.statistics = statistics
        self.average = average
        self.process_group = process_group
        devices = dict.fromkeys(p.device for p in model.parameters())
        self.device = next(iter(devices), torch.device("cpu"))
        self._cuda = [device for device in devices if device.type == "cuda"]
        self._check()
        self.start_step()

    def start_step(self) -> None:
        """Make the next call a first one; our optimizers say so, for others make a new closure."""
        self._first = True
        self._unit: float | None = None

    def __call__(self) -> Tensor:
        """Backpropagate the mean loss into ``.grad`` and return it (over all ranks)."""
        if not self._first:
            with self._replayed():
                return self._evaluate()
        self._first = False
        self._random = _RandomState(self._cuda)
        self._buffers = _copies(self.model)
        loss = self._evaluate()
        self._moved_buffers = _copies(self.model)
        return loss

    def restore_buffers(self) -> None:
        """Put BatchNorm's statistics back to before the step: for a step that failed."""
        if not self._first:
            _load(self.model, self._buffers)

    @contextmanager
    def _replayed(self) -> Iterator[None]:
        """Begin as the first call began, and leave what it left."""
        if self.statistics == "once":
            _load(self.model, self._buffers)
        after = _RandomState(self._cuda)
        self._random.restore()
        try:
            yield
        finally:
            after.restore()
            if self.statistics == "once":
                _load(self.model, self._moved_buffers)

    def _evaluate(self) -> Tensor:
        """Σ_b w_b L_b / Σ_b w_b; each term is divided by ``unit`` ≈ Σ_b w_b before backward."""
        for p in self.model.parameters():
            p.grad = None
        total, weight = torch.zeros((), device=self.device), 0.0
        for i, batch in enumerate(self.batches):
            last = i + 1 == len(self.batches)
            with self._communication(synchronize=last and self.average):
                mean, w = self._mean_and_weight(batch)
                if self._unit is None:
                    self._unit = self._mean_over_ranks(w * len(self.batches)) or 1.0
                if w == 0:  # its mean may be 0/0
                    self._refuse_without_backward(last)
                    continue
                term = mean * (w / self._unit)
                self._scaled(term).backward()  # type: ignore[no-untyped-call]
            total = total + term.detach()
            weight += w
        return self._normalized(total, weight)

    def _mean_and_weight(self, batch: Any) -> tuple[Tensor, float]:
        precision: AbstractContextManager[Any] = nullcontext()
        if self.autocast is not None:
            precision = torch.autocast(self.device.type, dtype=self.autocast)
        with precision:
            if self.batch_loss:
                result = self.loss_fn(self.model, batch)
            else:
                inputs, targets = batch
                result = self.loss_fn(self.model(inputs), targets)
        mean, weight = result if isinstance(result, tuple) else (result, _examples(batch))
        if mean.ndim:
            raise ValueError(
                f"The loss has shape {tuple(mean.shape)}; return its mean, or (mean, weight)."
            )
        return mean, float(weight)

    def _scaled(self, term: Tensor) -> Tensor:
        return term if self.grad_scaler is None else self.grad_scaler.scale(term)

    def _communication(self, *, synchronize: bool) -> AbstractContextManager[Any]:
        """DistributedDataParallel averages in a backward, unless it is told not to."""
        ddp = _ddp(self.model)
        return nullcontext() if ddp is None or synchronize else ddp.no_sync()

    def _normalized(self, total: Tensor, weight: float) -> Tensor:
        """From Σ_b (w_b / unit) L_b, gradients and loss, to the mean over all ranks' examples."""
        assert self._unit is not None
        everywhere = self._mean_over_ranks(weight)
        if everywhere == 0:
            raise ValueError("The micro-batches of this step have no weight: there is no mean.")
        factor = self._unit / everywhere
        if factor != 1:
            found = [p.grad for p in self.model.parameters() if p.grad is not None]
            torch._foreach_mul_(found, factor)
            total = total * factor
        if ranks.world_size(self.process_group) == 1:
            return total
        if self.average and _ddp(self.model) is None:
            ranks.average_gradients(self.model.parameters(), self.process_group)
        mean = ranks.summed(total, self.process_group)
        return mean / ranks.world_size(self.process_group)

    def _mean_over_ranks(self, value: float) -> float:
        world = ranks.world_size(self.process_group)
        if world == 1:
            return value
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        mine = torch.tensor(value, dtype=dtype, device=self.device)
        return ranks.summed(mine, self.process_group).item() / world

    def _refuse_without_backward(self, last: bool) -> None:
        if last and self.average and _ddp(self.model) is not None:
            raise ValueError(
                "The last micro-batch has weight zero, so this rank has no backward in which "
                "DistributedDataParallel could average. Put it first, or leave it out."
            )

    def _check(self) -> None:
        if self.statistics not in ("once", "every"):
            raise ValueError(f"`statistics` is once or every, got {self.statistics!r}.")
        if not self.batches:
            raise ValueError("`batches` is empty: a step needs at least one (inputs, targets).")
        if not self.batch_loss and any(isinstance(batch, Tensor) for batch in self.batches):
            raise TypeError(
                "`batches` holds a tensor where (inputs, targets) is expected. For a single "
                "batch write [(inputs, targets)]."
            )


class _RandomState:
    """Torch's random state on the CPU and, for a model there, on its CUDA devices."""

    def __init__(self, devices: list[torch.device]) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = [(device, torch.cuda.get_rng_state(device)) for device in devices]

    def restore(self) -> None:
        torch.set_rng_state(self._cpu)
        for device, state in self._cuda:
            torch.cuda.set_rng_state(state, device)


def _copies(model: nn.Module) -> list[Tensor]:
    return [buffer.detach().clone() for buffer in model.buffers()]


def _load(model: nn.Module, copies: list[Tensor]) -> None:
    with torch.no_grad():
        for buffer, copy in zip(model.buffers(), copies, strict=True):
            buffer.copy_(copy)


def _ddp(model: nn.Module) -> DistributedDataParallel | None:
    inner = getattr(model, "_orig_mod", model)  # as torch.compile wraps it
    return inner if isinstance(inner, DistributedDataParallel) else None


def _examples(batch: Any) -> int:
    """The length of the first tensor in a batch."""
    if isinstance(batch, Tensor) and batch.ndim:
        return len(batch)
    parts = list(batch.values()) if isinstance(batch, dict) else batch
    if isinstance(parts, (list, tuple)):
        for part in parts:
            if isinstance(part, (Tensor, dict, list, tuple)):
                return _examples(part)
    raise ValueError(
        f"Can't count the examples of a batch of type {type(batch).__name__}: return "
        "(mean, weight) from the loss."
    )
