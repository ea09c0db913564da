"""`--track`: curvature while a run trains."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import click
import torch

from curvature import datasets
from curvature.datasets.batches import choose, fixed
from curvature.datasets.dataset import Dataset
from curvature.runs.config import RunConfig
from curvature.tracking import CurvatureTracker

BATCH = 128  # examples that share a probe, as in `curv analyze`


def tracking_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--track` and what belongs to it, handed to the command as one `Tracking`, or None."""

    @click.option(
        "--track", metavar="METRICS", help="Measure while training: eigmax, trace, or eigmax,trace."
    )
    @click.option(
        "--track-every", default=100, show_default=True, help="Steps between measurements."
    )
    @click.option(
        "--track-examples",
        default=1000,
        show_default=True,
        type=click.IntRange(1),
        help="Training examples that are measured on, always the same.",
    )
    @click.option(
        "--track-budget",
        default=20,
        show_default=True,
        help="Products with the Hessian that one measurement may take.",
    )
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        track: str | None,
        track_every: int,
        track_examples: int,
        track_budget: int,
        **keywords: Any,
    ) -> Any:
        def make(config: RunConfig, sinks: Sequence[Callable[..., object]]) -> list[Any]:
            if track is None:
                return []
            options = {"every": track_every, "budget": track_budget, "sinks": sinks}
            metrics = tuple(name.strip() for name in track.split(","))
            return [tracker(config, track_examples, metrics=metrics, **options)]

        return command(*args, track=make, **keywords)

    return wrapped


def tracker(config: RunConfig, examples: int, **options: Any) -> CurvatureTracker:
    """On training examples, not augmented, balanced over the classes."""
    data = datasets.load(config.data, "train")
    if not isinstance(data, Dataset):
        raise ValueError(f"`{config.data}` gives batches, which can't be trained on.")
    generator = torch.Generator().manual_seed(0)
    data = choose(data, examples=min(examples, len(data)), generator=generator)
    about = {
        "model": config.model,
        "data": config.data,
        "data_name": data.name,
        "data_hash": data.hash,
        "split": "train",
        "on": "train",
        "batch_size": BATCH,
        "loss": config.loss,
    }
    batches = list(fixed(data, BATCH))
    return CurvatureTracker(None, config.loss, batches, run=config.id, about=about, **options)
