"""What moved linear layers add to a loss's change, of which the second order has mean zero.

A layer y = Wx + b whose W is used nowhere else, moved along Z: with δ the loss's gradient by y,
⟨δ, Δy⟩ − ⟨Wᵀδ, Δx⟩ = h⟨δ, Zx + z⟩ + h⟨δ, ZΔx⟩. Z is independent of Δx, made by earlier layers:
E⟨δ, ZΔx⟩ = 0, at any h. The first is the layer's part of hgᵀz. No product with Z is formed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from curvature.derivatives.per_example import record

f64 = torch.float64
_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CLOSE = 1e-3  # of a layer's outputs, that something else may not have made


@dataclass(frozen=True)
class Held:
    """x, y, δ and Wᵀδ of each layer at w."""

    x: dict[nn.Module, Tensor]
    y: dict[nn.Module, Tensor]
    delta: dict[nn.Module, Tensor]
    back: dict[nn.Module, Tensor]


class LinearLayers:
    """The linear layers among whose parameters are ``names``; ``covered``: all their parameters."""

    def __init__(
        self,
        model: nn.Module,
        params: Mapping[str, Tensor],
        forward: Callable[[], Tensor],
        names: Collection[str],
    ) -> None:
        self._modules: list[nn.Module] = []
        self.covered: set[str] = set()
        if not names:
            return
        known = {id(p): name for name, p in params.items()}
        found = record(model, params, forward).covered
        own_of: dict[nn.Module, set[str]] = {}
        for module in model.modules():
            own = {known[id(p)] for p in module._parameters.values() if id(p) in known}
            if type(module) in _KINDS and own <= found and not own.isdisjoint(names):
                own_of[module] = own
        self._modules = list(own_of)
        x, y, _ = self._captured(forward)
        self._modules = [m for m in own_of if m in x and _is_its_own(m, x[m], y[m])]
        self.covered.update(*(own_of[m] for m in self._modules))

    def hold(
        self, forward: Callable[[], Tensor], rest: list[Tensor], seeds: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor], Held]:
        """(f, ``seeds``(f), the gradients of seedsᵀf by the ``rest``, what ``change`` needs)."""
        x, y, f = self._captured(forward)
        r = seeds(f.detach())
        inner = [m for m in self._modules if m in x]
        wanted: list[Any] = [*rest, *(self._edges[m] for m in inner)]
        grads = (
            torch.autograd.grad(f, wanted, r, allow_unused=True)
            if f.requires_grad and wanted
            else [None] * len(wanted)
        )
        self._edges.clear()
        g = [torch.zeros_like(p) if d is None else d for p, d in zip(rest, grads, strict=False)]
        delta = {m: d for m, d in zip(inner, grads[len(rest) :], strict=True) if d is not None}
        back = {m: _back(m, x[m], d) for m, d in delta.items()}
        return f.detach(), r, g, Held(x, y, delta, back)

    def changed(self, forward: Callable[[], Tensor], held: Held) -> tuple[Tensor, Tensor]:
        """(f, Σ ⟨δ, Δy⟩ − ⟨Wᵀδ, Δx⟩) at the parameters as they are now."""
        total: list[Tensor] = []

        def look(module: nn.Module, x: Tensor, y: Tensor) -> None:
            if module in held.delta:
                total.append(_dot(held.delta[module], y - held.y[module]))
                total.append(-_dot(held.back[module], x - held.x[module]))

        with self._watched(look):
            f = forward()
        return f, torch.stack(total).double().sum() if total else f.new_zeros((), dtype=f64)

    def _captured(
        self, forward: Callable[[], Tensor]
    ) -> tuple[dict[nn.Module, Tensor], dict[nn.Module, Tensor], Tensor]:
        x_of: dict[nn.Module, Tensor] = {}
        y_of: dict[nn.Module, Tensor] = {}
        self._edges: dict[nn.Module, GradientEdge] = {}

        def look(module: nn.Module, x: Tensor, y: Tensor) -> None:
            if y.requires_grad:
                # copies, and the edge now: an operation in place may follow
                x_of[module], y_of[module] = x.detach().clone(), y.detach().clone()
                self._edges[module] = get_gradient_edge(y)

        with self._watched(look):
            f = forward()
        return x_of, y_of, f

    @contextmanager
    def _watched(self, look: Callable[[nn.Module, Tensor, Tensor], None]) -> Iterator[None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if len(args) == 1:
                look(module, args[0], output)

        hooks = [module.register_forward_hook(hook) for module in self._modules]
        try:
            yield
        finally:
            for each in hooks:
                each.remove()


def _is_its_own(module: nn.Module, x: Tensor, y: Tensor) -> bool:
    """Whether y is what the layer makes of x, and no hook or patch does."""
    with torch.no_grad():
        again = type(module).forward(module, x)
    return again.shape == y.shape and bool((again - y).norm() <= _CLOSE * y.norm())


def _back(module: nn.Module, x: Tensor, delta: Tensor) -> Tensor:
    """Wᵀδ."""
    if isinstance(module, nn.Linear):
        return delta @ module.weight.detach()
    x = x.requires_grad_()
    with torch.enable_grad():
        (back,) = torch.autograd.grad(type(module).forward(module, x), x, delta)
    x.requires_grad_(False)
    return back


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.reshape(-1), b.reshape(-1))
