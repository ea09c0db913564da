"""Loss, accuracy and expected calibration error of a classifier on given examples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from curvature.empirical_risk import EmpiricalRisk

BINS = 15  # of equal width in confidence (Guo et al. 2017)


@dataclass(frozen=True)
class Performance:
    """``loss`` is L(w); accuracy and calibration are None for what is no classification."""

    loss: float
    examples: int
    accuracy: float | None = None
    accuracy_error: float | None = None  # binomial standard error over the examples
    calibration_error: float | None = None


def performance(risk: EmpiricalRisk) -> Performance:
    """One forward pass over all batches; the loss comes from the risk's survey.

    Classification means logits (N, C) with class indices (N,).
    """
    confidences: list[Tensor] = []
    hits: list[Tensor] = []
    if risk.loss is not None:
        with risk.evaluating(), torch.no_grad():
            for part in risk.all_parts():
                outputs, targets = risk.outputs(part), part[1]
                if not _is_classification(outputs, targets):
                    break
                confidence, label = outputs.double().softmax(1).max(1)
                counted = (targets >= 0) & (targets < outputs.shape[1])
                confidences.append(confidence[counted].cpu())
                hits.append((label == targets)[counted].double().cpu())
    survey = risk.survey
    if not hits:
        return Performance(survey.value, survey.examples)
    hit = torch.cat(hits)
    accuracy = float(hit.mean())
    return Performance(
        survey.value,
        survey.examples,
        accuracy,
        (accuracy * (1 - accuracy) / len(hit)) ** 0.5,
        expected_calibration_error(torch.cat(confidences), hit),
    )


def expected_calibration_error(confidence: Tensor, hit: Tensor) -> float:
    """Σ_b (n_b/N) |accuracy_b − confidence_b| over bins of equal width (Guo et al. 2017, eq. 3)."""
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    gap = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, hit - confidence)
    return float(gap.abs().sum() / len(hit))


def _is_classification(outputs: Tensor, targets: object) -> bool:
    return (
        outputs.ndim == 2
        and outputs.shape[1] > 1
        and isinstance(targets, Tensor)
        and targets.shape == outputs.shape[:1]
        and not targets.is_floating_point()
    )
