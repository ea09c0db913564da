"""tr(R) of the functional Hessian R = H − G = Σ_i ω_i (∂ℓ_i/∂f)·∇²f(x_i) / Σω.

Only tensors whose own block isn't 0 have a part in it: none in a network that is piecewise linear
in each. Over the others Rademacher probes z: a smooth network needs a forward pass for zᵀRz.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from curvature.derivatives.own_blocks import curved_tensors
from curvature.empirical_risk import EmpiricalRisk
from curvature.empirical_risk.nested import joined
from curvature.linalg.random_vectors import rademacher
from curvature.measures.draws import Draws
from curvature.measures.output_differences import OutputDifferences
from curvature.operators import RiskOperator

_FEW = 2  # examples on which own blocks are looked at
_COMPARED = 8  # examples on which differences are held against autograd twice
_PROBES = 4
_PASSES = 2  # before there is a standard error
_DEGREES = 8  # of freedom, before it is believed
_PRODUCT = 3.5  # gradients that a product with R takes
_FORWARD = 0.37


def tensors_with_a_part(risk: EmpiricalRisk, generator: torch.Generator) -> list[str]:
    """The tensors whose own block of R isn't 0: found by probes on a few examples in float64."""
    assert risk.loss is not None
    few = risk.few(next(iter(risk.batches)), _FEW)
    double = risk.device.type != "mps"
    try:
        return _curved(risk, few, torch.float64 if double else risk.dtype, generator)
    except RuntimeError:  # a model with float32 written into it
        if risk.dtype == torch.float64 or not double:
            raise
        return _curved(risk, few, risk.dtype, generator)


def _curved(
    risk: EmpiricalRisk, few: Any, dtype: torch.dtype, generator: torch.Generator
) -> list[str]:
    twin = EmpiricalRisk(risk.model, risk.loss, [few], params=list(risk.params), dtype=dtype)
    with twin.evaluating():
        outputs = joined(twin.predictions(next(twin.parts(few))))
        r = torch.randn(outputs.shape, generator=generator, dtype=torch.float32)
        return curved_tensors(
            (outputs * r.to(outputs)).sum(),
            twin.params,
            generator=generator,
            tolerance=1e-10 if dtype == torch.float64 else 1e-6,
        )


class FunctionalTrace:
    """A growing estimate of tr(R); every batch has its own probe in every pass.

    ``scaled``: of Σ w_j² R_jj too, in ``draws[1]``. ``blocks``: of each tensor's part, which takes
    products with R. ``exact``: from products with all unit vectors.
    """

    def __init__(
        self,
        risk: EmpiricalRisk,
        generator: torch.Generator,
        parts: Collection[str],
        *,
        scaled: bool = False,
        blocks: bool = False,
        exact: bool = False,
    ) -> None:
        assert risk.loss is not None
        self.risk = risk
        self.exact = exact
        self._parts = [name for name in risk.layout if name in parts]
        self._operator = RiskOperator(risk, "functional_hessian")
        self._generator = generator
        self._mask = torch.zeros(risk.size, device=risk.device, dtype=risk.dtype)
        for name in self._parts:
            self._mask[risk.layout[name]] = 1
        w = risk.flatten([p.detach() for p in risk.leaves])
        size = float((w * self._mask).double().norm())
        self._w = w
        self._unit = float(self._mask.double().norm()) / size if size else 1.0  # ‖z‖/‖w ⊙ z‖
        self._differences = [OutputDifferences(risk) for _ in range(1 + scaled)]
        for kind in range(1 + scaled):
            self._settle(kind)
        self.step = self._differences[0].step
        if any(each.step is None for each in self._differences):
            self.step = None
        self._by_products = blocks or exact or self.step is None
        columns = len(self._parts) if self._by_products else 1
        units = 1 if exact else len(risk.batches)
        self.draws = [Draws(units, columns, generator) for _ in range(1 + scaled)]
        self._forms: list[list[Tensor]] = [[] for _ in range(1 + scaled)]  # zᵀR_iz, two probes

    @property
    def method(self) -> str:
        """What is done, for the record."""
        if self.exact:
            return "tr(H−G) exactly"
        if self._by_products:
            return "tr(H−G) by probes"
        return f"tr(H−G) by differences of the outputs, h = {self.step:g}"

    @property
    def cost(self) -> float:
        """Gradients that a pass takes, as measured on small vision transformers."""
        if self._by_products:
            return _PRODUCT
        return sum(_FORWARD * (1 if each.one_sided else 2) for each in self._differences)

    @property
    def passes(self) -> float:
        """Probes for each batch so far."""
        return float(len(self._mask.nonzero())) if self.exact else self.draws[0].per_unit

    def value(self, kind: int = 0) -> float:
        """tr(R), or Σ w_j² R_jj."""
        return self.draws[kind].value

    def variance(self, kind: int = 0) -> float:
        """Of the probes."""
        return 0.0 if self.exact else self.draws[kind].variance()

    def blocks(self) -> tuple[dict[str, float], dict[str, float]] | None:
        """Each tensor's part and its variance, where they were taken apart."""
        if not self._by_products:
            return None
        draws = self.draws[0]
        variances = torch.zeros(len(self._parts)) if self.exact else draws.column_variances()
        return (
            dict(zip(self._parts, draws.means.sum(0).tolist(), strict=True)),
            dict(zip(self._parts, variances.tolist(), strict=True)),
        )

    @property
    def is_young(self) -> bool:
        """Too few draws to believe a small variance, which would be left at that."""
        few = len(self.risk.batches) * (self.passes - 1) < _DEGREES
        return not self.exact and self.passes > 0 and few

    def advance(self, number: int = 1) -> None:
        """As many probes for every batch; two the first time."""
        if self.exact:
            self._take_the_diagonal()
            return
        first = not self.passes
        for _ in range(_PASSES if first else number):
            for index, batch in enumerate(self.risk.batches):
                self._probe(index, batch, apart=first)
            for draws in self.draws:
                draws.budget = draws.per_unit - 1

    def by_example(self, kind: int = 0) -> Tensor | None:
        """Two estimates (2, N) of every example's part of tr(R); None without differences."""
        if self.step is None:
            return None
        if not self._forms[kind]:
            for _ in range(_PASSES):
                for index, batch in enumerate(self.risk.batches):
                    self._apart(kind, index, batch)
        return torch.cat(self._forms[kind]).view(_PASSES, -1)

    def _apart(self, kind: int, index: int, batch: Any) -> Tensor:
        forms = self._differences[kind].by_example(index, batch, self._direction(kind))
        self._forms[kind].append(forms / self._factor(kind))
        return self._forms[kind][-1].sum()[None]

    def _probe(self, index: int, batch: Any, *, apart: bool) -> None:
        kinds = range(len(self.draws))
        if self._by_products:
            z = self._direction(0)
            product = z.double() * (self._operator.term(batch) @ z).double()
            rows = [product, product * self._w.double().square()]
            values = [self._by_part(rows[kind]) for kind in kinds]
        elif apart:
            values = [self._apart(kind, index, batch) for kind in kinds]
        else:
            values = [
                torch.tensor([each.form(index, batch, self._direction(kind)) / self._factor(kind)])
                for kind, each in enumerate(self._differences)
            ]
        for draws, value in zip(self.draws, values, strict=True):
            if not bool(value.isfinite().all()):
                raise FloatingPointError(
                    f"zᵀ(H−G)z = {float(value.sum())} in batch {index}: the network's outputs "
                    "aren't finite. Look at the weights, or use float64."
                )
            draws.add(torch.tensor([index]), value.double()[None])

    def _take_the_diagonal(self) -> None:
        diagonal = torch.zeros(self.risk.size, dtype=torch.float64)
        for j in self._mask.nonzero()[:, 0].tolist():
            e = torch.zeros_like(self._mask)
            e[j] = 1
            diagonal[j] = float((self._operator @ e)[j])
        w = self._w.double().cpu()
        for draws, row in zip(self.draws, (diagonal, diagonal * w.square()), strict=False):
            draws.add(torch.tensor([0]), self._by_part(row)[None])

    def _by_part(self, row: Tensor) -> Tensor:
        return torch.stack([row[self.risk.layout[name]].sum() for name in self._parts]).cpu()

    def _direction(self, kind: int) -> Tensor:
        """z, or z ⊙ w made as long as z, so that the same steps suit it."""
        z = rademacher(self._operator, self._generator) * self._mask
        return z * self._w * self._unit if kind else z

    def _factor(self, kind: int) -> float:
        return self._unit**2 if kind else 1.0

    def _settle(self, kind: int) -> None:
        few = self.risk.few(next(iter(self.risk.batches)), _COMPARED)
        probes = [self._direction(kind) for _ in range(_PROBES)]
        term = self._operator.term(few)
        exact = torch.stack([z.double() @ (term @ z).double() for z in probes]).cpu()
        self._differences[kind].settle(few, probes, exact)
