"""λ_max, the largest eigenvalue; the K largest; and the most negative one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor

from curvature.display import Several
from curvature.linalg import EigenEstimate, LinearOperator, lanczos, power_iteration
from curvature.linalg.operator import require_operator
from curvature.operators import RiskOperator

Method = Literal["lanczos", "power"]
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
        A, 1, rtol=rtol, max_products=max_products, start=start, generator=generator, report=report
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
    rtol: float = 1e-3,
    max_products: int = 200,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
    report: Report | None = None,
) -> Several[EigenEstimate]:
    """The ``k`` largest eigenvalues, repeated ones as often as they occur, by Lanczos."""
    require_operator(A)
    generator = generator or torch.Generator().manual_seed(0)
    with _linearized(A) as A:
        return Several(
            lanczos(
                A,
                generator=generator,
                k=k,
                rtol=rtol,
                max_products=max_products,
                start=start,
                report=_of_first(report),
            )
        )


def _linearized(A: LinearOperator) -> AbstractContextManager[LinearOperator]:
    """Made ready for many products, where there is something to make ready."""
    return A.linearized() if isinstance(A, RiskOperator) else nullcontext(A)


def _of_first(report: Report | None) -> Callable[[tuple[EigenEstimate, ...]], object] | None:
    return None if report is None else lambda found: report(found[0])
