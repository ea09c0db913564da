"""Loss, accuracy and expected calibration error of a classifier on given examples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from curvature.display import Shown
from curvature.empirical_risk import EmpiricalRisk
from curvature.losses import Loss

BINS = 15  # of equal width in confidence (Guo et al. 2017)


@dataclass(frozen=True, repr=False)
class Performance(Shown):
    """``loss`` is L(w); accuracy and calibration are None for what is no classification."""

    _brief = ("loss", "accuracy", "calibration_error", "examples")

    loss: float
    examples: int
    accuracy: float | None = None
    accuracy_error: float | None = None  # binomial standard error over the examples
    calibration_error: float | None = None


def performance(risk: EmpiricalRisk) -> Performance:
    """From the risk's survey; another forward pass where that couldn't keep the outputs.

    Classification means logits (N, C) with class indices (N,).
    """
    if not isinstance(risk, EmpiricalRisk):
        raise TypeError(
            f"Expected an `EmpiricalRisk(model, loss, data)`, got {type(risk).__name__}."
        )
    found: list[tuple[Tensor, Tensor]] = []
    if risk.loss is not None:
        with risk.evaluating():
            for part, outputs in risk.parts_and_logits():
                if outputs is None or not _is_classification(outputs, part[1]):
                    break
                found.append(_confidence_and_hit(outputs, part[1]))
    survey = risk.survey
    return _performance(survey.value, survey.examples, found)


def performance_of(outputs: Tensor, targets: Tensor, loss: Loss) -> Performance:
    """The same from outputs that are there already; a loss that is not finite is told, not raised.

    Runs that diverge have one.
    """
    total = float(loss.sum(outputs, targets))
    if loss.reduction == "mean":
        weight = float(loss.weight(outputs, targets))
        total = total / weight if weight else math.nan
    found = []
    if _is_classification(outputs, targets):
        found.append(_confidence_and_hit(outputs, targets))
    return _performance(total, len(outputs), found)


def expected_calibration_error(confidence: Tensor, hit: Tensor) -> float:
    """Σ_b (n_b/N) |accuracy_b − confidence_b| over bins of equal width (Guo et al. 2017, eq. 3)."""
    if not bool(confidence.isfinite().all()):
        return math.nan
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    gap = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, hit - confidence)
    return float(gap.abs().sum() / len(hit))


def _performance(loss: float, examples: int, found: list[tuple[Tensor, Tensor]]) -> Performance:
    if not found:
        return Performance(loss, examples)
    confidence, hit = (torch.cat(parts) for parts in zip(*found, strict=True))
    accuracy = float(hit.mean())
    return Performance(
        loss,
        examples,
        accuracy,
        (accuracy * (1 - accuracy) / len(hit)) ** 0.5,
        expected_calibration_error(confidence, hit),
    )


def _confidence_and_hit(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Of the examples that count: the largest probability, and whether it is the target's."""
    confidence, label = outputs.double().softmax(1).max(1)
    counted = (targets >= 0) & (targets < outputs.shape[1])
    return confidence[counted].cpu(), (label == targets)[counted].double().cpu()


def _is_classification(outputs: Tensor, targets: object) -> bool:
    return (
        outputs.ndim == 2
        and outputs.shape[1] > 1
        and isinstance(targets, Tensor)
        and targets.shape == outputs.shape[:1]
        and not targets.is_floating_point()
    )
