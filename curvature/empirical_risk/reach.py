"""A few examples that stand for all: spread over the data, and reaching every parameter.

A branch that only some inputs take is perhaps on none of a few examples. Then its parameters have
no gradient there; by that it is told, and examples are looked for that take it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

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

Tag = TypeVar("Tag")
_COUNT = 8
_AT_ONCE = 4  # not by the micro-batch, of which no number depends


@dataclass(frozen=True)
class Representatives:
    """Small batches, and the parameters in the graph that yet have no gradient on any example."""

    parts: list[Any]
    unreached: frozenset[str]


def spread(risk: EmpiricalRisk, count: int, at_once: int) -> list[Any]:
    """Examples evenly spaced over all data, in batches of ``at_once`` where shapes allow.

    Of batches that can't be cut, four are taken whole at the most.
    """
    return [
        part for part, _ in rows_of_batches(risk, _spaced(risk, count, at_once), lambda: at_once)
    ]


def _spaced(
    risk: EmpiricalRisk, count: int, at_once: int
) -> Iterator[tuple[Any, list[int] | None, None]]:
    total = len(risk.batches)
    number = min(total, count)
    at = {(2 * k + 1) * total // (2 * number): k for k in range(number)}
    for index, batch in enumerate(risk.batches):
        if index not in at:
            continue
        if not can_be_cut(batch):
            if at[index] % -(-number // 4) == 0:
                yield batch, None, None
            continue
        n = examples(batch)
        share = min(n, count // number)
        rows = [int((j + (at[index] + 0.5) / number) * n / share) for j in range(share)]
        pieces = -(-share // at_once)
        for i in range(pieces):
            yield batch, rows[i::pieces], None


def rows_of_batches(
    risk: EmpiricalRisk,
    pieces: Iterable[tuple[Any, list[int] | None, Tag]],
    at_once: Callable[[], int],
) -> Iterator[tuple[Any, list[Tag]]]:
    """Chosen rows of batches, in order, on the model's device, and the tags of what is in each.

    Several are joined to up to ``at_once()`` examples where shapes allow, which is asked for each;
    None stands for all rows of a batch that can't be cut.
    """
    held: Any = None
    tags: list[Tag] = []
    by_rows = False  # whether all that is held is examples
    for batch, rows, own in _of_one_batch(pieces, at_once):
        if rows is None:
            part, alike = moved(batch, risk.device, risk.dtype), False
        else:
            part, n = risk.rows(batch, rows), examples(batch)
            # one row beside a single example may be shared by all
            alike = leading_dimensions(batch) == {n} and (n > 1 or len(shapes_in(batch)) == 2)
        fits = alike and by_rows and examples(held) + len(rows or ()) <= at_once()
        one = rows_joined(held, part) if fits else None
        if one is None and tags:
            yield held, tags
            tags = []
        held, by_rows, tags = part if one is None else one, alike, tags + own
    if tags:
        yield held, tags


def _of_one_batch(
    pieces: Iterable[tuple[Any, list[int] | None, Tag]], at_once: Callable[[], int]
) -> Iterator[tuple[Any, list[int] | None, list[Tag]]]:
    """The same with what follows each other in one batch put together."""
    held: Any = None
    rows: list[int] | None = None
    tags: list[Tag] = []
    for batch, more, tag in pieces:
        if rows and more and batch is held and len(rows) + len(more) <= at_once():
            rows = rows + more
            tags.append(tag)
            continue
        if tags:
            yield held, rows, tags
        held, rows, tags = batch, more, [tag]
    if tags:
        yield held, rows, tags


def representatives(risk: EmpiricalRisk) -> Representatives:
    """Inside the risk's ``evaluating``; a pass over all data where a parameter isn't reached."""
    parts = spread(risk, _COUNT, _AT_ONCE)
    missing: dict[str, Tensor] = dict(risk.params)
    unused = set(missing)
    for part in parts:
        _reach(risk, part, missing, unused)
    if missing:
        parts += list(_looked_for(risk, missing, unused))
    return Representatives(parts, frozenset(missing) - unused)


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
