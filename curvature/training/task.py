"""A `RunConfig` made real: seeded weights, data on the device, loss, optimizer."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from curvature import datasets, models, names, optimizers
from curvature.datasets.batches import Batches, shuffled
from curvature.datasets.dataset import Dataset
from curvature.losses import LOSSES, Loss, as_loss, whole_loss
from curvature.optimizers.closure import StepClosure
from curvature.runs.config import RunConfig
from curvature.training.compiled import compiled
from curvature.training.schedule import is_constant, schedule


@dataclass(frozen=True)
class Task:
    """What the loop works on. ``order`` draws the epochs; ``noise`` seeds dropout and the like.

    ``network`` is what a step calls: the ``model``, or the same compiled.
    """

    config: RunConfig
    device: torch.device
    data: Dataset
    model: nn.Module
    network: nn.Module
    optimizer: optimizers.ClosureOptimizer
    loss: Callable[..., Any]
    batch_loss: bool
    order: Generator
    noise: int
    rate: Callable[[int], float] | None

    @property
    def steps_per_epoch(self) -> int:
        """Batches in the training data; the last may be smaller."""
        return -(-len(self.data) // self.config.batch_size)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return total_steps(self.config, self.steps_per_epoch)

    def epoch(self) -> Batches:
        """The batches of one epoch, whose order and augmentation ``order`` draws."""
        return shuffled(self.data, self.config.batch_size, generator=self.order)

    def closure(self, batch: tuple[Tensor, Tensor]) -> StepClosure:
        """∇L of one mini-batch, for one step."""
        return optimizers.closure(
            self.network,
            self.loss,
            [batch],
            batch_loss=self.batch_loss,
            autocast=torch.bfloat16 if self.config.precision == "bfloat16" else None,
        )


def build(
    config: RunConfig, device: torch.device, *, announce: Callable[[str], None] | None = None
) -> Task:
    """Load the data and draw the weights; from one seed three streams that don't touch.

    Raises:
        ValueError: for what can't be trained, before anything is written.
    """
    data = datasets.load(config.data, "train", report=announce)
    if not isinstance(data, Dataset):
        raise ValueError(
            f"`{config.data}` gives batches, which are for curvature alone; to train, return "
            "(inputs, targets) as tensors, or a map-style torch Dataset."
        )
    streams = torch.Generator().manual_seed(config.seed)
    model = models.build(
        config.model, input_shape=data.input_shape, classes=data.classes, generator=streams
    ).to(device)
    order = torch.Generator().manual_seed(_draw(streams))
    optimizer = optimizers.build(
        config.optimizer,
        model.parameters(),
        lr=config.lr,
        weight_decay=config.weight_decay,
        rho=config.rho,
        sa_variant=config.sa_variant,
        clip_norm=config.clip_norm,
        options=config.optimizer_options,
    )
    loss, batch_loss = _training_loss(config)
    return Task(
        config,
        device,
        data.to(device),
        model,
        compiled(model, device) if config.compile else model,
        optimizer,
        loss,
        batch_loss,
        order,
        _draw(streams),
        _rate(config, optimizer, -(-len(data) // config.batch_size)),
    )


def total_steps(config: RunConfig, steps_per_epoch: int) -> int:
    """``steps``, or those of all epochs."""
    return config.epochs * steps_per_epoch if config.steps is None else config.steps


def _draw(generator: Generator) -> int:
    return int(torch.randint(2**63 - 1, (), generator=generator))


def _training_loss(config: RunConfig) -> tuple[Callable[..., Any], bool]:
    """The loss as the closure takes it, and whether it is a whole ``loss(model, batch)``."""
    if not config.label_smoothing:
        whole = whole_loss(config.loss)
        return (whole, True) if whole else (_mean_and_weight(as_loss(config.loss)), False)
    spec = names.parse(config.loss, LOSSES)
    if spec.name != "cross_entropy" or "label_smoothing" in spec.options:
        raise ValueError(
            f"`label_smoothing` belongs to the loss cross_entropy, and `{config.loss}` is another "
            "or has its own."
        )
    smoothed = {**spec.options, "label_smoothing": str(config.label_smoothing)}
    return _mean_and_weight(as_loss(str(replace(spec, options=smoothed)))), False


def _mean_and_weight(loss: Loss) -> Callable[[Tensor, Tensor], tuple[Tensor, Any]]:
    def function(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Any]:
        total = loss.sum(outputs, targets)
        if loss.reduction == "sum":
            return total, 1.0
        weight = loss.weight(outputs, targets)
        return total / weight, weight

    return function


def _rate(
    config: RunConfig, optimizer: optimizers.ClosureOptimizer, steps_per_epoch: int
) -> Callable[[int], float] | None:
    """None where the optimizer's own learning rate is left alone."""
    if is_constant(config):
        return None
    if isinstance(optimizer, optimizers.SASGD):
        asked = "a cosine schedule" if config.schedule == "cosine" else "warm-up"
        raise ValueError(
            f"`{config.optimizer}` adapts its step size itself, so {asked} would fight it: leave "
            "`schedule` constant and `warmup_epochs` 0."
        )
    return schedule(
        config, steps=total_steps(config, steps_per_epoch), steps_per_epoch=steps_per_epoch
    )
