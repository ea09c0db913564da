"""Measure networks under one protocol, which is checked before anything is spent on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from curvature import names
from curvature.analysis import Subject, analyze, load_subject
from curvature.comparison.sources import CURVATURES, Network
from curvature.empirical_risk import EmpiricalRisk
from curvature.models import MODELS
from curvature.runs.checkpoint import Checkpoint
from curvature.runs.config import AnalysisConfig
from curvature.runs.rows import Row
from curvature.statistics.protocol import refuse_other_protocols

MEASURED = (
    *("loss", "accuracy", "calibration_error", "weight_norm", "gradient_norm"),
    *CURVATURES,
)

Say = Callable[[str], None]
Report = Callable[[str, Any], object]


@dataclass(frozen=True)
class Look:
    """What a first look at a network tells: whether it diverged, and what will be measured."""

    expected: tuple[Row, ...] = ()
    hits: tuple[bool, ...] | None = None
    hash: str | None = None
    diverged: str = ""


def look_at(
    networks: Mapping[str, Network],
    there: list[Row],
    config: AnalysisConfig,
    *,
    trust: bool,
) -> dict[str, Look]:
    """Load each network once; refuse protocols that differ from each other, or from ``there``."""
    found: dict[str, Look] = {}
    expected = list(there)
    for name, network in networks.items():
        if network.load is None:
            continue
        found[name] = _look(name, network.load(), config, trust)
        expected += found[name].expected
        refuse_other_protocols(expected)
    return found


def measure(
    name: str,
    network: Network,
    look: Look,
    config: AnalysisConfig,
    *,
    trust: bool,
    announce: Say,
    report: Report | None,
) -> list[Row]:
    """The rows of one network; of one that diverged, rows without a value."""
    assert network.load is not None
    where = {"name": name, "checkpoint": network.path}
    if look.diverged:
        announce(f"{name}: {look.diverged}")
        gone = {"value": None, "status": "diverged", "converged": False, "message": look.diverged}
        return [
            {**where, "metric": metric, "run": look.hash, "checkpoint_hash": look.hash, **gone}
            for metric in _metrics(config)
        ]
    checkpoint = network.load()
    rows = analyze(
        checkpoint,
        _fitting(config, checkpoint, trust),
        trust=trust,
        announce=lambda line: announce(f"{name}: {line}"),
        report=report,
    )
    return [{**where, **row} for row in rows]


def _look(name: str, checkpoint: Checkpoint, config: AnalysisConfig, trust: bool) -> Look:
    try:
        subject = load_subject(checkpoint, _fitting(config, checkpoint, trust), trust=trust)
    except FloatingPointError as error:
        return Look(hash=checkpoint.hash, diverged=" ".join(str(error).split()))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return Look(tuple(_expected(name, subject, config)), hits_of(subject.risk), checkpoint.hash)


def _fitting(config: AnalysisConfig, checkpoint: Checkpoint, trust: bool) -> AnalysisConfig:
    """A typed model is that of the strangers: what says its own, by a known name, is that."""
    if checkpoint.config is None or config.model is None:
        return config
    known = names.parse(checkpoint.config.model, MODELS).name in MODELS
    return replace(config, model=None) if known or trust else config


def hits_of(risk: EmpiricalRisk) -> tuple[bool, ...] | None:
    """On which examples a classifier is right, in their order; None for other networks."""
    if risk.loss is None:
        return None
    found: list[bool] = []
    with risk.evaluating(), torch.no_grad():
        for part in risk.all_parts():
            outputs, targets = risk.outputs(part), part[1]
            if not _are_classes(outputs, targets):
                return None
            counted = (targets >= 0) & (targets < outputs.shape[1])
            found += (outputs.argmax(1) == targets)[counted].tolist()
    return tuple(found)


def _are_classes(outputs: Tensor, targets: Any) -> bool:
    return (
        isinstance(targets, Tensor)
        and outputs.ndim == 2
        and outputs.shape[1] > 1
        and targets.shape == outputs.shape[:1]
        and not targets.is_floating_point()
    )


def _expected(name: str, subject: Subject, config: AnalysisConfig) -> list[Row]:
    method = "pyhessian" if config.backend == "pyhessian" else None
    about = {**subject.provenance, "name": name, "value": 0.0, "method": method, "block": None}
    return [{**about, "metric": metric} for metric in _metrics(config)]


def _metrics(config: AnalysisConfig) -> list[str]:
    asked = (("accuracy", True), ("trace", config.wants_trace), ("eigmax", config.wants_eigmax))
    return [metric for metric, wanted in asked if wanted]
