"""λ_max, the largest eigenvalue; the K largest; and the most negative one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from curvature.display import Several
from curvature.linalg import EigenEstimate, LinearOperator, lanczos, power_iteration
from curvature.linalg.operator import require_operator
from curvature.measures.staged_eigmax import staged, staged_refusal
from curvature.operators import RiskOperator

Method = Literal["lanczos", "staged", "power"]
Report = Callable[[EigenEstimate], object]


def eigmax(
    A: LinearOperator,
    *,
    method: Method = "lanczos",
    rtol: float = 1e-3,
    max_products: int = 200,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
    report: Report | None = None,
) -> EigenEstimate:
    """The largest eigenvalue, algebraically, to a relative error ``rtol``.

    ``start``: the eigenvector at weights nearby, to begin from; a random part is added, without
    which one that has become larger would be missed. Lanczos's method takes it.
    ``staged``: see ``eigenvalues``.
    """
    if method not in get_args(Method):
        raise ValueError(f"`method` is one of {', '.join(get_args(Method))}, not `{method}`.")
    require_operator(A)
    generator = generator or torch.Generator().manual_seed(0)
    if method == "power" and start is not None:
        raise ValueError('`start` is taken by `method="lanczos"` only.')
    if method == "power":
        with _linearized(A) as A:
            return power_iteration(
                A, generator=generator, rtol=rtol, max_products=max_products, report=report
            )
    return eigenvalues(
        A,
        1,
        method=method,
        rtol=rtol,
        max_products=max_products,
        start=start,
        generator=generator,
        report=report,
    )[0]


def eigmin(
    A: LinearOperator,
    *,
    rtol: float = 1e-3,
    max_products: int = 200,
    generator: torch.Generator | None = None,
    report: Report | None = None,
) -> EigenEstimate:
    """The smallest eigenvalue, algebraically: the most negative one where there is one."""
    require_operator(A)
    generator = generator or torch.Generator().manual_seed(0)
    with _linearized(A) as A:
        return lanczos(
            A,
            generator=generator,
            which="smallest",
            rtol=rtol,
            max_products=max_products,
            report=_of_first(report),
        )[0]


def eigenvalues(
    A: LinearOperator,
    k: int,
    *,
    method: Literal["lanczos", "staged"] = "lanczos",
    rtol: float = 1e-3,
    max_products: int = 200,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
    report: Report | None = None,
) -> Several[EigenEstimate]:
    """The ``k`` largest eigenvalues, repeated ones as often as they occur, by Lanczos.

    ``staged``: by way of weighted examples, where the loss has a root and there are enough of them;
    a third of the products, but larger eigenvalues are looked for in the drawn examples alone.
    Where that doesn't converge, Lanczos over all examples follows.
    """
    if method not in ("lanczos", "staged"):
        raise ValueError(f"`method` is lanczos or staged here, not `{method}`.")
    if method == "staged" and start is not None:
        raise ValueError("`start` is for `lanczos`: `staged` finds its own.")
    require_operator(A)
    generator = generator or torch.Generator().manual_seed(0)
    spent = 0
    limits: dict[str, Any] = {"rtol": rtol, "generator": generator, "report": _of_first(report)}
    with _linearized(A) as matrix:
        if method == "staged" and isinstance(A, RiskOperator) and not staged_refusal(A):
            found = staged(A, matrix, k, max_products=max_products, **limits)
            spent = found[0].products
            if all(each.converged for each in found) or max_products - spent < k:
                return Several(found)
        found = lanczos(matrix, k=k, max_products=max_products - spent, start=start, **limits)
    return Several(replace(each, products=each.products + spent) for each in found)


def _linearized(A: LinearOperator) -> AbstractContextManager[LinearOperator]:
    """Made ready for many products, where there is something to make ready."""
    return A.linearized() if isinstance(A, RiskOperator) else nullcontext(A)


def _of_first(report: Report | None) -> Callable[[tuple[EigenEstimate, ...]], object] | None:
    return None if report is None else lambda found: report(found[0])
