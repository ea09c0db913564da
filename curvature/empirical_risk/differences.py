"""Derivatives against central differences in float64, where a custom function may have them wrong.

A backward written with detached tensors or in NumPy gives right gradients, and second derivatives
that are wrong without a word, and may be symmetric.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from curvature.derivatives.products import gradient, hessian_product
from curvature.empirical_risk.model import copy_of
from curvature.empirical_risk.nested import moved
from curvature.empirical_risk.risk import EmpiricalRisk

_STEP = 1e-7  # relative to ‖w‖: so small that hardly a kink of a ReLU lies within it
_RTOL = 1e-3
_TRIES = 3  # a kink within the step of every direction is rarer still


def check_custom_functions(risk: EmpiricalRisk, part: Any, names: Sequence[str]) -> None:
    """Refuse gᵀv and Hv that differ from differences of the loss and of the gradient."""
    twin = EmpiricalRisk(
        copy_of(risk.model),
        risk.given_loss,
        [part],
        params=list(risk.params),
        dtype=torch.float64,
        mode=risk.mode,
    )
    part = moved(part, twin.device, twin.dtype)
    generator = torch.Generator().manual_seed(1)
    with twin.evaluating():
        for _ in range(_TRIES):
            v = torch.randn(twin.size, generator=generator, dtype=twin.dtype)
            wrong = _first_wrong(twin, part, (v / v.norm()).to(twin.device))
            if not wrong:
                return
    raise ValueError(
        f"The {wrong} disagrees with central differences, and the model uses the custom autograd "
        f"function {', '.join(names)}: its backward isn't the derivative of its forward, or was "
        "computed from detached tensors or in NumPy. Write it with torch operations on "
        "`ctx.saved_tensors`."
    )


def _first_wrong(risk: EmpiricalRisk, part: Any, v: Tensor) -> str:
    """The derivative along the unit vector v that isn't what differences say; "" if none."""
    h = _STEP * (1 + float(risk.weights().norm()))
    values, gradients = [], []
    for sign in (1, -1):
        with _moved_by(risk, sign * h * v):
            value = risk.loss_sum(part)
            values.append(float(value.detach()))
            gradients.append(risk.flatten(gradient(value, risk.leaves)))
    value = risk.loss_sum(part)
    g = risk.flatten(gradient(value, risk.leaves))
    slope = (values[0] - values[1]) / (2 * h)
    rounding = 1e-14 * abs(values[0]) / h
    if abs(float(g @ v) - slope) > _RTOL * float(g.norm()) / len(v) ** 0.5 + rounding:
        return "gradient"
    Hv = risk.flatten(hessian_product(risk.loss_sum(part), risk.leaves, risk.split(v)))
    expected = (gradients[0] - gradients[1]) / (2 * h)
    rounding = 1e-14 * float(g.norm()) / h
    gap = float((Hv - expected).norm())
    return "second derivative" * (gap > _RTOL * float(expected.norm() + Hv.norm()) + rounding)


@contextmanager
def _moved_by(risk: EmpiricalRisk, step: Tensor) -> Iterator[None]:
    kept = [p.detach().clone() for p in risk.leaves]
    try:
        with torch.no_grad():
            for p, d in zip(risk.leaves, risk.split(step), strict=True):
                p.add_(d)
        yield
    finally:
        with torch.no_grad():
            for p, was in zip(risk.leaves, kept, strict=True):
                p.copy_(was)
