"""Products with second derivatives by autograd twice, the reference way (Pearlmutter 1994).

Reverse over reverse was right for every layer tried; forward modes and ``jacrev`` are not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_ONCE = once_differentiable(len).__code__  # the one body of all functions so decorated


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
    found = re.search(r"derivative for '?([\w:]+)'? is not implemented", str(error))
    return _refusal(found[1]) if found else error


def custom_functions(value: Tensor) -> dict[str, type]:
    """The custom autograd functions that ``value`` was computed with, by name.

    Raises:
        RuntimeError: if one is ``once_differentiable``. Autograd itself would, without a word,
            count its second derivative as zero where nothing but the parameters is asked for.
    """
    found: dict[str, type] = {}
    seen: set[Any] = set()
    nodes = [value.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
        function = getattr(type(node), "_forward_cls", None)
        if function is not None:
            found[function.__name__] = function
            if _once_differentiable(function.backward):
                raise _refusal(function.__name__)
    return found


def _once_differentiable(backward: Any) -> bool:
    while backward is not None:
        if getattr(backward, "__code__", None) is _ONCE:
            return True
        backward = getattr(backward, "__wrapped__", None)
    return False


def _refusal(operation: str) -> RuntimeError:
    return RuntimeError(
        f"`{operation}` has no second derivative in PyTorch, so there is no product with the "
        "Hessian. Replace it in the model by an equivalent made of differentiable operations."
    )
