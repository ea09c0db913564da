"""A few examples that stand for all: spread over the data, and reaching every parameter.

A branch that only some inputs take is perhaps on none of a few examples. Then its parameters have
no gradient there; by that it is told, and examples are looked for that take it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from curvature.empirical_risk.batches import can_be_cut, examples
from curvature.empirical_risk.nested import (
    joined,
    leading_dimensions,
    moved,
    part_of,
    rows_joined,
    shapes_in,
)

if TYPE_CHECKING:
    from curvature.empirical_risk.risk import EmpiricalRisk

_COUNT = 8
_AT_ONCE = 4  # not by the micro-batch, of which no number depends


@dataclass(frozen=True)
class Representatives:
    """Small batches, and the parameters of which no example's outputs are a function."""

    parts: list[Any]
    unused: frozenset[str]


def spread(risk: EmpiricalRisk, count: int, at_once: int) -> list[Any]:
    """Examples evenly spaced over all data, in batches of ``at_once`` where shapes allow.

    Of batches that can't be cut, four are taken whole at the most.
    """
    total = len(risk.batches)
    number = min(total, count)
    at = {(2 * k + 1) * total // (2 * number): k for k in range(number)}
    found: list[Any] = []
    by_rows = False  # whether all that the last of them holds are examples
    for index, batch in enumerate(risk.batches):
        if index not in at:
            continue
        if not can_be_cut(batch):
            if at[index] % -(-number // 4) == 0:
                found.append(moved(batch, risk.device, risk.dtype))
                by_rows = False
            continue
        n = examples(batch)
        # one row beside a single example may be shared by all
        alike = leading_dimensions(batch) == {n} and (n > 1 or len(shapes_in(batch)) == 2)
        share = min(n, count // number)
        rows = [int((j + (at[index] + 0.5) / number) * n / share) for j in range(share)]
        pieces = -(-share // at_once)
        for chosen in (rows[i::pieces] for i in range(pieces)):
            part = risk.rows(batch, chosen)
            fits = by_rows and alike and examples(found[-1]) + len(chosen) <= at_once
            one = rows_joined(found[-1], part) if fits else None
            by_rows = alike
            if one is None:
                found.append(part)
            else:
                found[-1] = one
    return found


def representatives(risk: EmpiricalRisk) -> Representatives:
    """Inside the risk's ``evaluating``; a pass over all data where a parameter isn't reached."""
    parts = spread(risk, _COUNT, _AT_ONCE)
    missing: dict[str, Tensor] = dict(risk.params)
    unused = set(missing)
    for part in parts:
        _reach(risk, part, missing, unused)
    if missing:
        parts += list(_looked_for(risk, missing, unused))
    return Representatives(parts, frozenset(unused))


def _looked_for(risk: EmpiricalRisk, missing: dict[str, Tensor], unused: set[str]) -> Iterator[Any]:
    for part in risk.all_parts():
        while missing:
            reached = _reach(risk, part, dict(missing), unused)
            if not reached:
                break
            name = next(iter(reached))
            one = _narrowed(risk, part, {name: missing[name]})
            _reach(risk, one, missing, unused)
            missing.pop(name, None)
            yield one


def _narrowed(risk: EmpiricalRisk, part: Any, wanted: dict[str, Tensor]) -> Any:
    """A single example that reaches what is wanted, where the part can be cut."""
    while (n := examples(part)) > 1 and can_be_cut(part):
        halves = part_of(part, 0, n // 2, n), part_of(part, n // 2, n, n)
        reaching = [half for half in halves if _reach(risk, half, dict(wanted), set())]
        if not reaching:
            break
        part = reaching[0]
    return part


def _reach(
    risk: EmpiricalRisk, part: Any, missing: dict[str, Tensor], unused: set[str]
) -> list[str]:
    """Those with a gradient here, which leave ``missing``; all in the graph leave ``unused``."""
    f = joined(risk.predictions(part))
    if not f.requires_grad or not missing:
        return []
    r = torch.randn(f.shape, generator=torch.Generator().manual_seed(0))
    grads = torch.autograd.grad(f, list(missing.values()), r.to(f), allow_unused=True)
    there = {name: g for name, g in zip(missing, grads, strict=True) if g is not None}
    unused.difference_update(there)
    reached = [name for name, g in there.items() if bool(g.count_nonzero())]
    for name in reached:
        del missing[name]
    return reached
