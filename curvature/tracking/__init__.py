"""Curvature while a network trains: a callback on a budget of products, its rows and sinks."""

from curvature.runs.sinks import scalars, tensorboard_sink, wandb_sink
from curvature.tracking.tracker import CurvatureTracker

__all__ = ["CurvatureTracker", "scalars", "tensorboard_sink", "wandb_sink"]
