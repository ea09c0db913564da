"""How H, G and H − G of one micro-batch are applied to a vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from curvature.derivatives.products import Product, gradient, hessian_of, jacobian_of
from curvature.empirical_risk import EmpiricalRisk
from curvature.empirical_risk.outputs import taken_apart

Kind = Literal["hessian", "ggn", "functional_hessian"]


def linearized(kind: Kind, risk: EmpiricalRisk, part: Any) -> Product:
    """The graph of a micro-batch's gradient, ready for products; not yet scaled by 1/Σω."""
    return _LINEARIZED[kind](risk, part)


def product(kind: Kind, risk: EmpiricalRisk, part: Any, v: Sequence[Tensor]) -> list[Tensor]:
    """One product with a micro-batch's share."""
    return linearized(kind, risk, part)(v)


def hides_outputs(risk: EmpiricalRisk, part: Any) -> bool:
    """Whether the loss sees of the outputs what isn't found in them, as in a cache of keys."""
    _, loss_sum, _ = _taken_apart(risk, part)
    value = loss_sum()
    found = value.requires_grad and torch.autograd.grad(value, risk.leaves, allow_unused=True)
    return any(g is not None for g in found or ())


def _hessian(risk: EmpiricalRisk, part: Any) -> Product:
    return hessian_of(risk.loss_sum(part), risk.leaves)


def _ggn(risk: EmpiricalRisk, part: Any) -> Product:
    outputs, loss_sum, apart = _taken_apart(risk, part)
    jacobian = jacobian_of(outputs, risk.leaves)

    def apply(v: Sequence[Tensor], *, keep: bool = False) -> list[Tensor]:
        u = hessian_of(loss_sum(), apart)(jacobian(v, keep=keep))
        return gradient(_inner(outputs, u), risk.leaves, keep=keep)

    return apply


def _functional_hessian(risk: EmpiricalRisk, part: Any) -> Product:
    outputs, loss_sum, apart = _taken_apart(risk, part)
    return hessian_of(_inner(outputs, gradient(loss_sum(), apart)), risk.leaves)


def _taken_apart(
    risk: EmpiricalRisk, part: Any
) -> tuple[list[Tensor], Callable[[], Tensor], list[Tensor]]:
    assert risk.loss is not None
    return taken_apart(risk.loss, risk.predictions(part), part[1])


def _inner(outputs: Sequence[Tensor], vectors: Sequence[Tensor]) -> Tensor:
    pairs = zip(outputs, vectors, strict=True)
    return torch.stack([(f * u.detach()).sum() for f, u in pairs]).sum()


_LINEARIZED: dict[Kind, Callable[[EmpiricalRisk, Any], Product]] = {
    "hessian": _hessian,
    "ggn": _ggn,
    "functional_hessian": _functional_hessian,
}
