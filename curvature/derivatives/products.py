"""Products with second derivatives by autograd twice, the reference way (Pearlmutter 1994).

Reverse over reverse was right for every layer tried; forward modes and ``jacrev`` are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import GradientEdge, get_gradient_edge

_Edges = dict[int, GradientEdge]  # of the gradient by the i-th parameter
_ONCE = once_differentiable(len).__code__  # the one body of all functions so decorated


class Product(Protocol):
    """A product with the graph of a gradient: to ``keep`` it allows another product."""

    def __call__(self, v: Sequence[Tensor], *, keep: bool = False) -> list[Tensor]:
        """The product with ``v``."""


def gradient(value: Tensor, params: Sequence[Tensor], *, keep: bool = False) -> list[Tensor]:
    """∂value/∂params; zeros for a parameter that the value does not depend on."""
    if not value.requires_grad:
        return [torch.zeros_like(p) for p in params]
    return list(torch.autograd.grad(value, params, retain_graph=keep, materialize_grads=True))


def hessian_product(value: Tensor, params: Sequence[Tensor], v: Sequence[Tensor]) -> list[Tensor]:
    """(∂²value/∂params²) v. Costs about 3.5 gradients, the forward pass included."""
    return hessian_of(value, params)(v)


def hessian_of(value: Tensor, params: Sequence[Tensor]) -> Product:
    """∂²value/∂params², by the graph of the gradient."""
    if not value.requires_grad:
        return _zeros(params)
    return _transposed_jacobian(_gradient_edges([value], params, None), params)


def jacobian_of(outputs: Sequence[Tensor], params: Sequence[Tensor]) -> Product:
    """J = ∂outputs/∂params by differentiating u ↦ Jᵀu; its products are shaped as ``outputs``."""
    u = [torch.zeros_like(f, requires_grad=True) for f in outputs]
    pairs = [(f, u_i) for f, u_i in zip(outputs, u, strict=True) if f.requires_grad]
    if not pairs:
        return _zeros(outputs)
    functions, vectors = zip(*pairs, strict=True)
    return _transposed_jacobian(_gradient_edges(functions, params, vectors), u)


def _zeros(inputs: Sequence[Tensor]) -> Product:
    def apply(v: Sequence[Tensor], *, keep: bool = False) -> list[Tensor]:
        return [torch.zeros_like(x) for x in inputs]

    return apply


def _gradient_edges(
    functions: Sequence[Tensor], params: Sequence[Tensor], vectors: Sequence[Tensor] | None
) -> _Edges:
    """The gradient's places in its graph; its values, as many as parameters, are let go at once."""
    edges: _Edges = {}

    def hook(g: Tensor, *, of: int) -> Tensor:
        if g.requires_grad:
            edges[of] = get_gradient_edge(g)
        return g.new_zeros(()).expand_as(g)

    with ExitStack() as stack:
        for i, p in enumerate(params):
            handle = p.register_hook(partial(hook, of=i))  # type: ignore[no-untyped-call]
            stack.callback(handle.remove)
        torch.autograd.grad(functions, params, vectors, create_graph=True, allow_unused=True)
    return edges


def _transposed_jacobian(edges: _Edges, inputs: Sequence[Tensor]) -> Product:
    """V ↦ Σ_i (∂functions_i/∂inputs)ᵀ v_i of the functions at these places."""

    def apply(v: Sequence[Tensor], *, keep: bool = False) -> list[Tensor]:
        if not edges:
            return [torch.zeros_like(x) for x in inputs]
        try:
            found = torch.autograd.grad(
                list(edges.values()),
                inputs,
                [v[i] for i in edges],
                retain_graph=keep,
                materialize_grads=True,
            )
        except RuntimeError as error:
            raise no_second_derivative(error) from error
        return list(found)

    return apply


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
    for node in nodes_of(value):
        function = getattr(type(node), "_forward_cls", None)
        if function is not None:
            found[function.__name__] = function
            if _once_differentiable(function.backward):
                raise _refusal(function.__name__)
    return found


def nodes_of(value: Tensor) -> Iterator[Any]:
    """Each node of the graph that ``value`` was computed by, once."""
    seen: set[Any] = set()
    nodes: list[Any] = [value.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
        yield node


def _once_differentiable(backward: Any) -> bool:
    while backward is not None:
        if getattr(backward, "__code__", None) is _ONCE:
            return True
        backward = getattr(backward, "__wrapped__", None)
    return False


def _refusal(operation: str) -> RuntimeError:
    return RuntimeError(
        f"`{operation}` has no second derivative in PyTorch, so there is no product with the "
        "Hessian. Replace it in the model by an equivalent made of differentiable operations; or, "
        "if the model is smooth, take differences (`differences=True`, `--products differences`)."
    )
