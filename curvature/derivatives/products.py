"""Products with second derivatives by autograd twice, the reference way (Pearlmutter 1994).

Reverse over reverse was right for every layer tried; forward modes and ``jacrev`` are not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gradient(value: Tensor, params: Sequence[Tensor]) -> list[Tensor]:
    """∂value/∂params; zeros for a parameter that the value does not depend on."""
    if not value.requires_grad:
        return [torch.zeros_like(p) for p in params]
    return list(torch.autograd.grad(value, params, materialize_grads=True))


def hessian_product(value: Tensor, params: Sequence[Tensor], v: Sequence[Tensor]) -> list[Tensor]:
    """(∂²value/∂params²) v. Costs about 3.5 gradients, the forward pass included."""
    if not value.requires_grad:
        return [torch.zeros_like(p) for p in params]
    g = torch.autograd.grad(value, params, create_graph=True, allow_unused=True)
    pairs = [(g_i, v_i) for g_i, v_i in zip(g, v, strict=True) if g_i is not None]
    return _vector_jacobian([g_i for g_i, _ in pairs], params, [v_i for _, v_i in pairs])


def jacobian_product(outputs: Tensor, params: Sequence[Tensor], v: Sequence[Tensor]) -> Tensor:
    """J v in the shape of ``outputs``, J = ∂outputs/∂params, by differentiating u ↦ Jᵀu."""
    if not outputs.requires_grad:
        return torch.zeros_like(outputs)
    u = torch.zeros_like(outputs, requires_grad=True)
    g = torch.autograd.grad(outputs, params, u, create_graph=True, allow_unused=True)
    pairs = [(g_i, v_i) for g_i, v_i in zip(g, v, strict=True) if g_i is not None]
    return _vector_jacobian([g_i for g_i, _ in pairs], [u], [v_i for _, v_i in pairs])[0]


def _vector_jacobian(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], v: Sequence[Tensor]
) -> list[Tensor]:
    differentiable = [(f, v_i) for f, v_i in zip(outputs, v, strict=True) if f.requires_grad]
    if not differentiable:
        return [torch.zeros_like(x) for x in inputs]
    functions, vectors = zip(*differentiable, strict=True)
    try:
        return list(torch.autograd.grad(functions, inputs, vectors, materialize_grads=True))
    except RuntimeError as error:
        raise no_second_derivative(error) from error


def no_second_derivative(error: RuntimeError) -> RuntimeError:
    """The error in our words where an operation has no double backward; else the error itself."""
    text = str(error)
    if "derivative for" not in text and "double backward" not in text.lower():
        return error
    operation = text.split("derivative for")[-1].split("is not implemented")[0].strip(" '\"`.")
    return RuntimeError(
        f"`{operation}` has no second derivative in PyTorch, so there is no product with the "
        "Hessian. Replace it in the model by an equivalent made of differentiable operations."
    )
