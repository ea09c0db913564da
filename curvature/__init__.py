"""Hessian curvature of PyTorch networks, with its uncertainty.

    H = curvature.hessian(model, loss, data)
    curvature.trace(H), curvature.eigmax(H)

Everything below is imported when it is first used, so that `import curvature` stays quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

from curvature._version import __version__

if TYPE_CHECKING:
    from curvature.analysis import analyze
    from curvature.comparison import compare
    from curvature.empirical_risk import EmpiricalRisk
    from curvature.linalg import LinearOperator
    from curvature.losses import Loss
    from curvature.measures.eigmax import eigenvalues, eigmax, eigmin
    from curvature.measures.performance import performance
    from curvature.measures.trace import trace
    from curvature.operators import functional_hessian, ggn, hessian
    from curvature.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from curvature.runs.config import AnalysisConfig, RunConfig
    from curvature.runs.table import read_table
    from curvature.tracking import CurvatureTracker
    from curvature.training import evaluate, train

_HOME = {
    # what is measured: a network on examples, as a function and as matrices
    "EmpiricalRisk": "empirical_risk",
    "Loss": "losses",
    "LinearOperator": "linalg",
    "hessian": "operators",
    "ggn": "operators",
    "functional_hessian": "operators",
    # the measures
    "trace": "measures.trace",
    "eigmax": "measures.eigmax",
    "eigmin": "measures.eigmax",
    "eigenvalues": "measures.eigmax",
    "performance": "measures.performance",
    # runs and their checkpoints
    "train": "training",
    "evaluate": "training",
    "CurvatureTracker": "tracking",
    "RunConfig": "runs.config",
    "AnalysisConfig": "runs.config",
    "Checkpoint": "runs.checkpoint",
    "load_checkpoint": "runs.checkpoint",
    "save_checkpoint": "runs.checkpoint",
    "analyze": "analysis",
    "compare": "comparison",
    "read_table": "runs.table",
}

__all__ = [
    "AnalysisConfig",
    "Checkpoint",
    "CurvatureTracker",
    "EmpiricalRisk",
    "LinearOperator",
    "Loss",
    "RunConfig",
    "__version__",
    "analyze",
    "compare",
    "eigenvalues",
    "eigmax",
    "eigmin",
    "evaluate",
    "functional_hessian",
    "ggn",
    "hessian",
    "load_checkpoint",
    "performance",
    "read_table",
    "save_checkpoint",
    "trace",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'curvature' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"curvature.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
