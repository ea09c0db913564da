"""How H, G and H − G of one micro-batch are applied to a vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor

from curvature.derivatives.products import Product, gradient, hessian_of, jacobian_of
from curvature.empirical_risk import EmpiricalRisk

Kind = Literal["hessian", "ggn", "functional_hessian"]


def linearized(kind: Kind, risk: EmpiricalRisk, part: Any) -> Product:
    """The graph of a micro-batch's gradient, ready for products; not yet scaled by 1/Σω."""
    return _LINEARIZED[kind](risk, part)


def product(kind: Kind, risk: EmpiricalRisk, part: Any, v: Sequence[Tensor]) -> list[Tensor]:
    """One product with a micro-batch's share."""
    return linearized(kind, risk, part)(v)


def _hessian(risk: EmpiricalRisk, part: Any) -> Product:
    return hessian_of(risk.loss_sum(part), risk.leaves)


def _ggn(risk: EmpiricalRisk, part: Any) -> Product:
    loss = risk.loss
    assert loss is not None
    outputs = risk.outputs(part)
    jacobian = jacobian_of(outputs, risk.leaves)

    def apply(v: Sequence[Tensor], *, keep: bool = False) -> list[Tensor]:
        (Jv,) = jacobian(v, keep=keep)
        u = loss.hessian_product(outputs, part[1], Jv)
        return gradient((outputs * u.detach()).sum(), risk.leaves, keep=keep)

    return apply


def _functional_hessian(risk: EmpiricalRisk, part: Any) -> Product:
    assert risk.loss is not None
    outputs = risk.outputs(part)
    r = risk.loss.gradient(outputs, part[1])
    return hessian_of((outputs * r).sum(), risk.leaves)


_LINEARIZED: dict[Kind, Callable[[EmpiricalRisk, Any], Product]] = {
    "hessian": _hessian,
    "ggn": _ggn,
    "functional_hessian": _functional_hessian,
}
