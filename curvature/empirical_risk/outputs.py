"""The network's outputs on all examples, from the survey's forward pass where it kept them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from curvature.empirical_risk.nested import moved
from curvature.empirical_risk.risk import EmpiricalRisk


def outputs_and_targets(risk: EmpiricalRisk) -> Iterator[tuple[Tensor, Any]]:
    """Of each batch, or micro-batch, in order; inside ``evaluating``, without gradients."""
    kept = risk.survey.outputs
    if kept is None:
        for part in risk.all_parts():
            yield risk.outputs(part), part[1]
        return
    for outputs, batch in zip(kept, risk.batches, strict=True):
        yield outputs, moved(batch[1], risk.device, risk.dtype)
