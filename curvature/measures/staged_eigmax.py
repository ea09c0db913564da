"""λ_max by way of a weighted subsample of the examples; values and residuals are of all of them.

Examples are drawn in proportion to tr Λ_i, Λ_i the loss's Hessian by the outputs, which one forward
pass tells, and weighed by 1/(m q_i): so the subsample's operator has the whole one's as its mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from curvature.derivatives.second_differences import moved_along
from curvature.empirical_risk import EmpiricalRisk
from curvature.empirical_risk.batches import examples
from curvature.empirical_risk.reach import Piece, rows_of_batches
from curvature.linalg import EigenEstimate, LinearOperator
from curvature.linalg.neighbour import neighbour_lanczos
from curvature.linalg.operator import norm
from curvature.linalg.random_vectors import rademacher
from curvature.losses import Loss
from curvature.measures.split_trace import refusal
from curvature.operators import RiskOperator

DRAWN = 128  # images of the subsample
LEAST = 8 * DRAWN  # examples from which on a subsample is worth its cost
# of the draws: in proportion to tr Λ_i, to zᵀJ_iᵀΛ_iJ_iz for one random z, to ‖∂ℓ_i/∂f_i‖‖J_iz‖,
# and to all alike. An example that alone makes a large eigenvalue of G has a large share of
# tr(JᵀΛJ), whatever its tr Λ_i. One that makes it by the functional Hessian Σ_c (∂ℓ/∂f_c) ∂²f_c has
# a large share of the third: of a homogeneous network, ∂²f w is a multiple of J.
SHARES = (0.35, 0.35, 0.2, 0.1)
MOVED = 1e-3  # of the weights' size, for J_iz as a difference of the outputs


def staged_refusal(A: LinearOperator) -> str:
    """Why there is no subsample of A, as a sentence; empty where there is."""
    if isinstance(A, RiskOperator) and A.risk.survey.examples < LEAST:
        return f"there are fewer than {LEAST:,} examples."
    return refusal(A)


def staged(
    A: RiskOperator,
    linearized: LinearOperator,
    k: int,
    *,
    rtol: float,
    max_products: int,
    generator: torch.Generator,
    report: Callable[[tuple[EigenEstimate, ...]], object] | None,
    drawn: int = DRAWN,
) -> tuple[EigenEstimate, ...]:
    """The ``k`` largest eigenvalues of A; not converged where the subsample was no help.

    Products with A are formed by ``linearized``.
    """
    B = subsampled(A, drawn, generator)
    with B.linearized() as part:
        found, products = neighbour_lanczos(
            linearized,
            part,
            generator=generator,
            k=k,
            rtol=rtol,
            max_products=max_products,
            report=report,
        )
    count = sum(map(examples, B.risk.batches))
    where = f"{count} weighted examples by {products} products, 99 %"
    return tuple(replace(each, searched=where) for each in found)


def subsampled(A: RiskOperator, drawn: int, generator: torch.Generator) -> RiskOperator:
    """The same operator over ``drawn`` examples at the most, weighed to have A as its mean."""
    risk = A.risk
    q = _shares(A, generator)
    times = _times(q * drawn, generator)
    weights = times / (drawn * q) * risk.scale
    loss = risk.loss
    assert loss is not None
    B = RiskOperator(
        EmpiricalRisk(
            risk.model,
            Loss(f"weighted {loss.name}", _weighted(loss), _no_weight, None, "sum", additive=True),
            _chosen(risk, times, weights),
            params=list(risk.params),
            micro_batch=risk.micro_batch,
            mode=risk.mode,
            tf32=risk.tf32,
        ),
        A.kind,
        diagonal=A.diagonal,
        memory=A.memory,
    )
    B.way = A.choose_way()
    return B


def _shares(A: RiskOperator, generator: torch.Generator) -> Tensor:
    """q: which share of the draws goes to each example; see ``SHARES``."""
    risk, loss = A.risk, A.risk.loss
    assert loss is not None
    assert loss.root_product is not None
    z = risk.split(rademacher(A, generator))
    h = MOVED * float(norm(risk.weights())) / risk.size**0.5
    found = []
    with risk.evaluating(), torch.no_grad():
        for part, f in risk.parts_and_logits():
            assert f is not None
            targets = part[1]
            u = torch.randint(2, (1, *f.shape), generator=generator, dtype=torch.int8)
            (v,) = loss.root_product(f, targets, u.to(f) * 2 - 1)
            with moved_along(risk.leaves, z, h):
                moved = risk.outputs(part) - f
            slope = loss.gradient(f, targets)
            change = loss.gradient(f + moved, targets) - slope
            columns = torch.stack([v.square(), moved * change, moved.square(), slope.square()])
            sums = columns.double().reshape(4, len(f), -1).sum(2).clamp(min=0).cpu()
            by_functional = (sums[2] * sums[3]).sqrt()
            found.append(torch.stack([sums[0], sums[1], by_functional, torch.ones(len(f))]))
    sizes = torch.cat(found, dim=1)
    totals = sizes.sum(1)
    totals[totals == 0] = torch.inf
    q = (torch.tensor(SHARES, dtype=torch.float64) / totals) @ sizes
    return q / q.sum()


def _times(expected: Tensor, generator: torch.Generator) -> Tensor:
    """How often each is drawn, systematically: once more or less than ``expected`` at the most."""
    ends = expected.cumsum(0) + torch.rand(1, generator=generator, dtype=torch.float64)
    return torch.diff(ends.floor(), prepend=torch.zeros(1, dtype=torch.float64))


def _chosen(risk: EmpiricalRisk, times: Tensor, weights: Tensor) -> list[Any]:
    """Batches of (inputs, (targets, weights)) of the examples drawn, few and large."""

    def pieces() -> Iterator[Piece[list[int]]]:
        first = 0
        for batch in risk.batches:
            n = examples(batch)
            rows = times[first : first + n].nonzero()[:, 0].tolist()
            if rows:
                yield Piece(batch, rows, [first + row for row in rows])
            first += n

    batches = []
    for (inputs, targets), own in rows_of_batches(risk, pieces(), lambda: risk.largest_part):
        numbers = [number for piece in own for number in piece.tag]
        batches.append((inputs, (targets, weights[numbers])))
    return batches


def _weighted(loss: Loss) -> Callable[[Tensor, Any], Tensor]:
    """Σ_i c_i ω_i ℓ_i."""

    def single(f: Tensor, y: Any) -> Tensor:
        return loss.sum(f[None], y[None])

    def sum_(outputs: Tensor, targets: Any) -> Tensor:
        y, c = targets
        each: Tensor = torch.func.vmap(single)(outputs, y)
        total: Tensor = (each * c).sum()
        return total

    return sum_


def _no_weight(outputs: Tensor, targets: Any) -> Tensor:
    return torch.ones(())
