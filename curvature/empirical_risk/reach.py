"""A few examples that stand for all: spread over the data, and reaching every parameter.

A branch that only some inputs take is perhaps on none of a few examples. Then its parameters have
no gradient there; by that it is told, and examples are looked for that take it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Generic, TypeVar

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
class Piece(Generic[Tag]):
    """Chosen rows of a batch, or all of one that can't be cut, and what is to be known of them."""

    batch: Any
    rows: list[int] | None
    tag: Tag


@dataclass(frozen=True)
class Representatives:
    """Small batches, and the parameters in the graph that yet have no gradient on any example."""

    parts: list[Any]
    unreached: frozenset[str]


def spread(risk: EmpiricalRisk, count: int, at_once: int) -> list[Any]:
    """Examples evenly spaced over all data, in batches of ``at_once`` where shapes allow.

    Of batches that can't be cut, four are taken whole at the most.
    """
    pieces = _spaced(risk, count, at_once)
    return [part for part, _ in rows_of_batches(risk, pieces, lambda: at_once)]


def _spaced(risk: EmpiricalRisk, count: int, at_once: int) -> Iterator[Piece[None]]:
    total = len(risk.batches)
    number = min(total, count)
    at = {(2 * k + 1) * total // (2 * number): k for k in range(number)}
    for index, batch in enumerate(risk.batches):
        if index not in at:
            continue
        if not can_be_cut(batch):
            if at[index] % -(-number // 4) == 0:
                yield Piece(batch, None, None)
            continue
        n = examples(batch)
        share = min(n, count // number)
        rows = [int((j + (at[index] + 0.5) / number) * n / share) for j in range(share)]
        pieces = -(-share // at_once)
        for i in range(pieces):
            yield Piece(batch, rows[i::pieces], None)


def rows_of_batches(
    risk: EmpiricalRisk, pieces: Iterable[Piece[Tag]], at_once: Callable[[], int]
) -> Iterator[tuple[Any, list[Piece[Tag]]]]:
    """The rows that ``pieces`` choose, in order, on the model's device, and these pieces.

    Several are joined to up to ``at_once()`` examples where shapes allow, which is asked for each.
    What is joined is cut from that from now on, so that no batch outlives its turn.
    """
    held: Any = None
    of_held: list[Piece[Tag]] = []
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
        if one is None and of_held:
            yield held, _cut_from(held, of_held) if by_rows else of_held
            of_held = []
        held, by_rows = part if one is None else one, alike
        of_held += [replace(piece, batch=None) for piece in own] if alike else own
    if of_held:
        yield held, _cut_from(held, of_held) if by_rows else of_held


def _of_one_batch(
    pieces: Iterable[Piece[Tag]], at_once: Callable[[], int]
) -> Iterator[tuple[Any, list[int] | None, list[Piece[Tag]]]]:
    """A batch, rows of it, and the pieces that they are: those that follow each other in it."""
    own: list[Piece[Tag]] = []
    rows: list[int] | None = None
    for piece in pieces:
        follows = own and piece.batch is own[0].batch
        if follows and rows and piece.rows and len(rows) + len(piece.rows) <= at_once():
            rows = rows + piece.rows
            own.append(piece)
            continue
        if own:
            yield own[0].batch, rows, own
        own, rows = [piece], piece.rows
    if own:
        yield own[0].batch, rows, own


def _cut_from(part: Any, pieces: list[Piece[Tag]]) -> list[Piece[Tag]]:
    """The same pieces of the part that they make together."""
    ends = accumulate(len(piece.rows or ()) for piece in pieces)
    return [
        Piece(part, list(range(end - len(piece.rows or ()), end)), piece.tag)
        for piece, end in zip(pieces, ends, strict=True)
    ]


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
