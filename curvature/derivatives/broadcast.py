"""Parameters of shape (1, …), which a model may broadcast over its examples: a row for each.

While the model runs, p.expand(N, …) stands in for p; row i of its gradient is that of example i.
A model may read p in other ways (p[0], p.norm(), p.repeat(N, 1)), which has to be looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from curvature.derivatives.layer_rules import RULES
from curvature.derivatives.memory import is_out_of_memory


@dataclass(frozen=True)
class Place:
    """Where the module keeps its parameter p."""

    module: nn.Module
    key: str
    p: Tensor


def places(model: nn.Module, params: Mapping[str, Tensor]) -> dict[str, Place]:
    """Of the parameters (1, …) that one module alone keeps, and that is no layer with a rule."""
    names = {
        id(p): name
        for name, p in params.items()
        if p.ndim >= 2 and p.shape[0] == 1 and p.requires_grad
    }
    found: dict[str, list[Place]] = {}
    for module in model.modules() if names else ():
        for key, p in module._parameters.items():
            if p is not None and id(p) in names:
                found.setdefault(names[id(p)], []).append(Place(module, key, p))
    return {
        name: where[0]
        for name, where in found.items()
        if len(where) == 1 and _can_hold_rows(where[0].module)
    }


def _can_hold_rows(module: nn.Module) -> bool:
    return not isinstance(module, (*RULES, ParametrizationList, torch.jit.ScriptModule))


@contextmanager
def expanded(where: Mapping[str, Place], n: int) -> Iterator[dict[str, Tensor]]:
    """Has n equal rows stand in for each parameter, and puts these back."""
    rows = {name: place.p.expand(n, *place.p.shape[1:]) for name, place in where.items()}
    kept: list[tuple[dict[str, Any], str, Tensor]] = [
        (place.module._parameters, place.key, place.p) for place in where.values()
    ]
    try:
        for (own, key, _), t in zip(kept, rows.values(), strict=True):
            own[key] = t
        yield rows
    finally:
        for own, key, p in kept:
            own[key] = p


def misread(
    model: nn.Module,
    params: Mapping[str, Tensor],
    forward: Callable[[], Tensor],
    n: int,
    *,
    rtol: float,
) -> set[str]:
    """Those whose n rows change the outputs of n examples, or with which the model fails."""
    where = places(model, params)
    if not where:
        return set()
    plain = forward().detach()

    def is_same(names: set[str]) -> bool:
        try:
            with expanded({name: where[name] for name in names}, n) as rows:
                f = forward()
            # what is computed again in a backward pass meets the parameters themselves
            if f.requires_grad:
                torch.autograd.grad(f, list(rows.values()), torch.ones_like(f), allow_unused=True)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return False
        return f.shape == plain.shape and _are_close(f.detach(), plain, rtol)

    every = set(where)
    if is_same(every):
        return set()
    good = {name for name in every if is_same({name})}
    return every - good if is_same(good) else every


def _are_close(f: Tensor, plain: Tensor, rtol: float) -> bool:
    # another shape may go through other kernels
    return torch.allclose(f, plain, rtol=0, atol=rtol * float(plain.abs().max()))
