"""The same questions asked of PyHessian (Yao et al. 2020), answered in our records.

What of it can't be trusted is said in ``warning``: its stop rules compare successive values, which
says nothing of the error; its power iteration finds the largest magnitude, not the largest value.
"""

from __future__ import annotations

import copy
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from curvature.display import Shown
from curvature.empirical_risk import EmpiricalRisk

TRACE_WARNING = (
    "PyHessian stops when successive means differ by less than the tolerance, which says nothing "
    "of their error; one probe is shared by all batches. The standard error is ours."
)
EIGMAX_WARNING = (
    "PyHessian stops when successive values differ by less than the tolerance; the true error is "
    "often larger. It finds the eigenvalue of largest magnitude. The residual is ours."
)


@dataclass(frozen=True, repr=False)
class CrossCheck(Shown):
    """PyHessian's answer, with the uncertainty that it doesn't give."""

    _error = "standard_error"
    _brief = ("residual", "products")

    value: float
    standard_error: float | None
    residual: float | None
    products: int
    converged: bool  # by its own rule
    warning: str


def pyhessian_trace(
    risk: EmpiricalRisk, *, generator: torch.Generator, rtol: float = 1e-3, max_passes: int = 100
) -> CrossCheck:
    """Tr(H) by PyHessian's ``trace`` with its own stop rule."""
    with _Asked(risk, generator) as asked:
        samples = torch.tensor(asked.hessian.trace(maxIter=max_passes, tol=rtol)).double()
    n = len(samples)
    error = float(samples.std() / n**0.5) if n > 1 else None
    return CrossCheck(float(samples.mean()), error, None, n, n < max_passes, TRACE_WARNING)


def pyhessian_eigmax(
    risk: EmpiricalRisk, *, generator: torch.Generator, rtol: float = 1e-3, max_products: int = 100
) -> CrossCheck:
    """The eigenvalue of largest magnitude by PyHessian's power iteration.

    One product more gives the residual ‖Hv − λv‖.
    """
    with _Asked(risk, generator) as asked:
        (value,), (v,) = asked.hessian.eigenvalues(maxIter=max_products, tol=rtol)
        used = asked.products
        _, Hv = asked.hessian.dataloader_hv_product(v)
    residual = torch.cat([(h - value * x).reshape(-1).double() for h, x in zip(Hv, v, strict=True)])
    warning = EIGMAX_WARNING
    if value < 0:
        warning = f"This is the most negative eigenvalue, not λ_max. {warning}"
    return CrossCheck(
        float(value), None, float(residual.norm()), used, used < max_products, warning
    )


class _Data(list[tuple[Tensor, Tensor]]):
    """The batches, counting how often they are gone over: once a product."""

    passes = 0

    def __iter__(self) -> Any:
        self.passes += 1
        return super().__iter__()


class _Asked:
    """PyHessian on a copy of the model, with the random state and its warnings kept to itself."""

    def __init__(self, risk: EmpiricalRisk, generator: torch.Generator) -> None:
        self._risk = risk
        risk.survey  # noqa: B018 (PyHessian refuses nothing)
        self._generator = generator
        self._stack = ExitStack()
        with risk.evaluating():
            self._data = _Data(risk.all_parts()) if risk.loss else _Data()
        self._check_weights()

    def __enter__(self) -> _Asked:
        from pyhessian import hessian

        risk, loss = self._risk, self._risk.loss
        assert loss is not None
        self._stack.enter_context(risk.evaluating())
        self._stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # backward with create_graph: a cycle, freed with the copy
        torch.manual_seed(int(torch.randint(2**31, (), generator=self._generator)))
        model = copy.deepcopy(risk.model)
        for name, p in model.named_parameters():
            p.requires_grad_(name in risk.params)

        def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
            return loss.sum(outputs, targets) / loss.weight(outputs, targets)

        self.hessian = hessian(
            model, criterion, dataloader=self._data, cuda=risk.device.type == "cuda"
        )
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._stack.close()
        if isinstance(error, (TypeError, RuntimeError)):
            raise ValueError(
                f"PyHessian failed: {error}. It can't take parameters that have no gradient, for "
                "one; use `--backend curvature`."
            ) from error

    @property
    def products(self) -> int:
        """Passes over the data so far."""
        return self._data.passes

    def _check_weights(self) -> None:
        """PyHessian weighs a batch by its examples, whatever the loss divides by."""
        loss = self._risk.loss
        if loss is None or not all(isinstance(x, Tensor) for part in self._data for x in part):
            raise ValueError(
                "PyHessian takes pairs of tensors and a loss of (outputs, targets), nothing else."
            )
        ratios = []
        with torch.no_grad(), self._risk.evaluating():
            for part in self._data:
                weight = loss.weight(self._risk.predictions(part), part[1])
                ratios.append(float(weight) / len(part[0]))
        if loss.reduction == "sum" or max(ratios) - min(ratios) > 1e-6 * max(ratios):
            raise ValueError(
                "PyHessian weighs batches by their examples, and this loss does not: its numbers "
                "would be wrong. Use `--backend curvature`."
            )
        self._data.passes = 0
