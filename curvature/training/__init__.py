"""From a `RunConfig` to checkpoints and rows of history."""

from curvature.training.evaluation import evaluate
from curvature.training.run import TrainingResult, train
from curvature.training.watch import Progress

__all__ = ["Progress", "TrainingResult", "evaluate", "train"]
