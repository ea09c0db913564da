"""tr(R) of the functional Hessian R = H − G = Σ_i ω_i (∂ℓ_i/∂f)·∇²f(x_i) / Σω.

Exactly 0 where the network is piecewise linear in each parameter tensor; else by Rademacher
probes, of which a smooth network needs two forward passes each (second differences).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from curvature.derivatives.own_blocks import own_blocks_vanish
from curvature.derivatives.second_differences import second_difference
from curvature.empirical_risk import EmpiricalRisk
from curvature.empirical_risk.nested import joined
from curvature.linalg.operator import dot
from curvature.linalg.random_vectors import rademacher
from curvature.measures.draws import Draws
from curvature.operators import RiskOperator

_FEW = 2  # examples on which own blocks are looked at
_COMPARED = 8  # examples on which second differences are held against autograd twice
_PROBES = 4
_STEPS = (1e-3, 3e-4, 3e-3, 1e-4, 1e-5)
_ALLOWED = 0.05  # error of a second difference, as a share of its deviation over the probes
_PASSES = 2  # before there is a standard error
_DEGREES = 8  # of freedom, before it is believed


def own_blocks_are_zero(risk: EmpiricalRisk, generator: torch.Generator) -> bool:
    """Whether every tensor's own block of R is 0: shown by probes on a few examples in float64."""
    assert risk.loss is not None
    few = risk.few(next(iter(risk.batches)), _FEW)
    double = risk.device.type != "mps"
    try:
        return _vanish(risk, few, torch.float64 if double else risk.dtype, generator)
    except RuntimeError:  # a model with float32 written into it
        if risk.dtype == torch.float64 or not double:
            raise
        return _vanish(risk, few, risk.dtype, generator)


def _vanish(risk: EmpiricalRisk, few: Any, dtype: torch.dtype, generator: torch.Generator) -> bool:
    twin = EmpiricalRisk(risk.model, risk.loss, [few], params=list(risk.params), dtype=dtype)
    with twin.evaluating():
        outputs = joined(twin.predictions(next(twin.parts(few))))
        r = torch.randn(outputs.shape, generator=generator, dtype=torch.float32)
        return own_blocks_vanish(
            (outputs * r.to(outputs)).sum(),
            twin.params,
            generator=generator,
            tolerance=1e-10 if dtype == torch.float64 else 1e-6,
        )


class FunctionalTrace:
    """A growing estimate of tr(R); every batch has its own probe in every pass."""

    def __init__(self, risk: EmpiricalRisk, generator: torch.Generator) -> None:
        assert risk.loss is not None
        self.risk = risk
        self._operator = RiskOperator(risk, "functional_hessian")
        self._generator = generator
        self._centers: dict[int, tuple[list[Tensor], list[Tensor]]] = {}
        self.draws = Draws(len(risk.batches), 1, generator)
        self.step = self._usable_step()

    @property
    def method(self) -> str:
        """What is done, for the record."""
        if self.step is None:
            return "tr(H−G) by probes"
        return f"tr(H−G) by second differences, h = {self.step:g}"

    @property
    def cost(self) -> float:
        """Gradients that a pass takes, as measured on small vision transformers."""
        return 3.5 if self.step is None else 0.7

    @property
    def passes(self) -> float:
        """Probes for each batch so far."""
        return self.draws.per_unit

    def value(self) -> float:
        """tr(R)."""
        return self.draws.value

    def variance(self) -> float:
        """Of the probes."""
        return self.draws.variance()

    @property
    def is_young(self) -> bool:
        """Too few draws to believe a small variance, which would be left at that."""
        return self.draws.per_unit > 0 and len(self.risk.batches) * (self.passes - 1) < _DEGREES

    def advance(self) -> None:
        """A probe for every batch; two the first time."""
        for _ in range(1 if self.draws.per_unit else _PASSES):
            for index, batch in enumerate(self.risk.batches):
                z = rademacher(self._operator, self._generator)
                value = self._second_difference(index, batch, z) if self.step else None
                if value is None:
                    value = _form(self._operator, batch, z)
                if not math.isfinite(value):
                    raise FloatingPointError(
                        f"zᵀ(H−G)z = {value} in batch {index}: the network's outputs aren't "
                        "finite. Look at the weights, or use float64."
                    )
                self.draws.add(torch.tensor([index]), torch.tensor([[value]]).double())
            self.draws.budget = self.draws.per_unit - 1

    def _second_difference(self, index: int, batch: Any, z: Tensor) -> float:
        assert self.step is not None
        if index not in self._centers:
            self._centers[index] = _center(self.risk, batch)
        return _by_outputs(self.risk, batch, z, self.step, self._centers[index])

    def _usable_step(self) -> float | None:
        """The better of two h whose second differences agree with autograd twice on a few examples.

        More are tried where neither does; None where none does, as on networks with kinks.
        """
        few = self.risk.few(next(iter(self.risk.batches)), _COMPARED)
        probes = [rademacher(self._operator, self._generator) for _ in range(_PROBES)]
        exact = torch.tensor([_form(self._operator, few, z) for z in probes]).double()
        center = _center(self.risk, few)
        errors: dict[float, float] = {}
        for h in _STEPS:
            found = torch.tensor([_by_outputs(self.risk, few, z, h, center) for z in probes])
            error = float((found.double() - exact).square().mean().sqrt())
            errors[h] = error if math.isfinite(error) else math.inf
            best = min(errors, key=lambda h: errors[h])
            if len(errors) > 1 and errors[best] <= _ALLOWED * float(exact.std()):
                return best
        return None


def _form(operator: RiskOperator, batch: Any, z: Tensor) -> float:
    return float(dot(z, operator.term(batch) @ z))


def _center(risk: EmpiricalRisk, batch: Any) -> tuple[list[Tensor], list[Tensor]]:
    """f(w) and ∂ℓ/∂f of a batch, by its micro-batches."""
    assert risk.loss is not None
    outputs, r = [], []
    with risk.evaluating(), torch.no_grad():
        for part in risk.parts(batch):
            outputs.append(risk.outputs(part))
            r.append(risk.loss.gradient(outputs[-1], part[1]).double())
    return outputs, r


def _by_outputs(
    risk: EmpiricalRisk,
    batch: Any,
    z: Tensor,
    h: float,
    center: tuple[Sequence[Tensor], Sequence[Tensor]],
) -> float:
    outputs, r = center

    def forward() -> list[Tensor]:
        return [risk.outputs(part) for part in risk.parts(batch)]

    with risk.evaluating(), torch.no_grad():
        differences = second_difference(forward, risk.leaves, risk.split(z), h=h, center=outputs)
        total = sum(float((a * b).sum()) for a, b in zip(r, differences, strict=True))
    return total * risk.scale
