"""From a model, a loss and batches to H, G and H − G, checked on a few examples.

H = ∇²L; the generalised Gauss–Newton matrix G = Σ_i ω_i J_iᵀΛ_iJ_i / Σω (Schraudolph 2002); and the
functional Hessian H − G = Σ_i ω_i (∂ℓ_i/∂f)·∇²f(x_i) / Σω. One term per batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from curvature.derivatives.products import custom_functions, gradient
from curvature.empirical_risk import EmpiricalRisk
from curvature.empirical_risk.differences import check_custom_functions
from curvature.empirical_risk.kernels import FusedCalls
from curvature.empirical_risk.nested import joined
from curvature.linalg.operator import dot, norm
from curvature.operators.differences import Differences
from curvature.operators.kinds import Kind, hides_outputs, product
from curvature.operators.risk_operator import RiskOperator

_FUSED = "attention is computed by the plain kernel: the fused ones have no second derivative"


def hessian(
    model: EmpiricalRisk | nn.Module,
    loss: Any = None,
    data: Any = None,
    *,
    weight_decay: float = 0.0,
    memory: float | None = None,
    plain: bool = False,
    differences: bool = False,
    **options: Any,
) -> RiskOperator:
    """H = ∇²L, plus ``weight_decay`` on the diagonal. Options are those of `EmpiricalRisk`.

    ``loss``: a name, a callable of (outputs, targets), or a whole ``loss(model, batch)``.
    ``memory``: bytes for graphs kept between products; by default a quarter of what is free.
    ``plain``: autograd twice as it is, so the same digits each time; else the fastest way found.
    ``differences``: of the gradient, where a smooth network has no second derivative in PyTorch.
    """
    if differences:
        risk = _risk("hessian", model, loss, data, options)
        return _by_differences(risk, weight_decay)
    return _operator("hessian", model, loss, data, weight_decay, options, memory, plain)


def ggn(
    model: EmpiricalRisk | nn.Module,
    loss: Any = None,
    data: Any = None,
    *,
    weight_decay: float = 0.0,
    memory: float | None = None,
    plain: bool = False,
    **options: Any,
) -> RiskOperator:
    """The generalised Gauss–Newton matrix G; positive semi-definite for a convex loss."""
    return _operator("ggn", model, loss, data, weight_decay, options, memory, plain)


def functional_hessian(
    model: EmpiricalRisk | nn.Module, loss: Any = None, data: Any = None, **options: Any
) -> RiskOperator:
    """H − G, the part of the Hessian that the network's own second derivatives make."""
    return _operator("functional_hessian", model, loss, data, 0.0, options)


OPERATORS: dict[str, Callable[..., RiskOperator]] = {
    "hessian": hessian,
    "ggn": ggn,
    "functional_hessian": functional_hessian,
}


def _operator(
    kind: Kind,
    model: Any,
    loss: Any,
    data: Any,
    weight_decay: float,
    options: dict[str, Any],
    memory: float | None = None,
    plain: bool = False,
) -> RiskOperator:
    risk = _risk(kind, model, loss, data, options)
    if kind != "hessian" and risk.loss is None:
        raise ValueError(
            f"`{kind}` needs the outputs and targets apart, and this loss takes (model, batch) "
            "whole. Pass a loss of (outputs, targets), or use `hessian`."
        )
    operator = RiskOperator(risk, kind, diagonal=weight_decay, memory=memory, plain=plain)
    if risk.loss is None or not risk.begin():
        risk.survey  # noqa: B018 (its refusals come before any product)
    _check_products(operator)
    return operator


def _risk(kind: Kind, model: Any, loss: Any, data: Any, options: dict[str, Any]) -> EmpiricalRisk:
    if isinstance(model, EmpiricalRisk):
        if loss is not None or data is not None or options:
            raise TypeError("A risk already has its loss, data and options; pass the risk alone.")
        return model
    if loss is None or data is None:
        raise TypeError(f"`{kind}` takes a risk, or a model with `loss` and `data`.")
    return EmpiricalRisk(model, loss, data, **options)


def _by_differences(risk: EmpiricalRisk, weight_decay: float) -> RiskOperator:
    risk.survey  # noqa: B018 (its refusals come before any product)
    with risk.evaluating():
        part = risk.few(next(iter(risk.batches)))
        differences = Differences(risk, part)
    return RiskOperator(risk, "hessian", diagonal=weight_decay, differences=differences)


def _check_products(operator: RiskOperator) -> None:
    """Apply the product twice, and both ways, on a few examples: uᵀAv = vᵀAu, twice the same."""
    risk = operator.risk
    generator = torch.Generator().manual_seed(0)
    with risk.evaluating():
        part = risk.few(next(iter(risk.batches)))
        if operator.kind != "hessian" and hides_outputs(risk, part):
            raise ValueError(
                f"The loss takes more of the network than the tensors found in its outputs, so "
                f"`{operator.kind}` isn't known. Let the model return tuples, dicts or dataclasses "
                "of tensors, or use `hessian`."
            )
        with FusedCalls() as calls:
            value = risk.loss_sum(part)
        if calls.attention and _FUSED not in risk.notes:
            risk.notes += (_FUSED,)
        custom = custom_functions(value)

        def apply(x: Tensor) -> Tensor:
            return risk.flatten(product(operator.kind, risk, part, risk.split(x)))

        # as few vectors at a time as can be: of a large network they are what there is in memory
        v = _random_vector(risk, generator)
        Av = apply(v)
        _refuse_infinite(risk, Av)
        change = float(norm(apply(v).sub_(Av)))
        u = _random_vector(risk, generator)
        scale, uAv = float(norm(Av)), float(dot(u, Av))
        del Av
        Au = apply(u)
        scale, vAu = scale + float(norm(Au)), float(dot(v, Au))
    tolerance = 1e-3 if risk.dtype == torch.float32 else 1e-7
    if change > tolerance * scale:
        raise ValueError(
            "The same product with the Hessian gave two results: the model or the loss draws "
            "random numbers. Make it deterministic in evaluation mode."
        )
    # u is independent of the rounding errors in Av, so these don't add up to ‖u‖‖Av‖
    gap = abs(uAv - vAu)
    if gap > tolerance * scale and gap > _rounding(risk, part):
        culprits = f" ({', '.join(custom)}?)" if custom else ""
        raise ValueError(
            f"The product is not symmetric: uᵀHv and vᵀHu differ by {gap:.2g}. An operation in "
            f"the model has a wrong derivative; look at custom autograd functions{culprits}."
        )
    if custom:
        _check_by_differences(risk, part, list(custom))


def _rounding(risk: EmpiricalRisk, part: Any) -> float:
    """What rounding Λ may do to uᵀHv: about ε‖J‖², which is all there is of it at a tiny loss.

    Measured on 400 small networks: at most 2ε‖Jᵀs‖², where s is a vector of random signs.
    """
    if risk.loss is None:
        return 0.0
    with risk.evaluating():
        outputs = joined(risk.predictions(part))
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(2, outputs.shape, generator=generator).to(outputs) * 2 - 1
        Js = risk.flatten(gradient((outputs * signs).sum(), risk.leaves))
    return 4 * torch.finfo(risk.dtype).eps * float(norm(Js)) ** 2


def _check_by_differences(risk: EmpiricalRisk, part: Any, custom: list[str]) -> None:
    try:
        check_custom_functions(risk, part, custom)
    except RuntimeError as error:  # a kernel that knows no float64
        risk.notes += (f"{', '.join(custom)} not checked by differences in float64: {error}",)


def _random_vector(risk: EmpiricalRisk, generator: torch.Generator) -> Tensor:
    v = torch.randn(risk.size, generator=generator, dtype=torch.float32)
    return v.to(risk.device, risk.dtype)


def _refuse_infinite(risk: EmpiricalRisk, product: Tensor) -> None:
    if bool(torch.isfinite(product).all()):
        return
    where = [name for name, s in risk.layout.items() if not bool(product[s].isfinite().all())]
    raise FloatingPointError(
        f"The product with the Hessian is not finite in {', '.join(where[:3])}, though the loss "
        "is: a square root or norm at zero, say, or more than the dtype can hold. Use "
        "dtype=torch.float64, or mend the operation."
    )
