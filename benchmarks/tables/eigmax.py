"""Time to λ_max within 1e-3 of the true value, each tool from a random start."""

import math
from functools import partial
from types import ModuleType
from typing import Any

from peers import ours
from results import Results
from subjects import Subject
from tables import reference
from unit import over_seeds, unit

WANTED = 1e-3


def measure_peers(
    subject: Subject, tools: dict[str, ModuleType], results: Results, *, quick: bool
) -> None:
    small = subject.parameters < 10_000
    results.part(f"eigmax/{subject.name}/reference", lambda: reference.eigmax(subject))
    for name, tool in tools.items():
        results.part(
            f"eigmax/{subject.name}/{name}",
            partial(
                _runs, subject, partial(_found, tool, subject), 5 if small and not quick else 1
            ),
        )


def measure_ours(subject: Subject, results: Results, *, quick: bool, seconds: float) -> None:
    """The default, plain Lanczos; and by way of weighted examples."""
    for name, options in {"ours": {}, "ours, staged": {"method": "staged"}}.items():
        work = partial(ours.eigmax, subject.model, subject.batches, **options)
        results.part(
            f"eigmax/{subject.name}/{name}",
            partial(_runs, subject, work, 1 if quick else 5, seconds),
        )


def _found(tool: ModuleType, subject: Subject, seed: int) -> dict[str, Any]:
    # PyHessian goes on past its own stop rule, so that the products to 1e-3 can be counted, too
    options = {"tol": 1e-4} if tool.TITLE == "PyHessian" else {}
    found = tool.eigmax(subject.model, subject.batches, seed, **options)
    return {"value": found.value, "products": found.products, "history": found.history}


def _runs(subject: Subject, work: Any, seeds: int, seconds: float = math.inf) -> Any:
    gradient = partial(unit, subject.model, subject.batches)
    try:
        return over_seeds(work, gradient, seeds=seeds, seconds=seconds)
    except RuntimeError as error:
        return {"failed": str(error)[:200]}


def products_needed(run: dict[str, Any], value: float) -> int | None:
    """Products from which on the value stays within ``WANTED``; None where it never does."""
    found = run["found"]
    history = found.get("history") or [*[float("inf")] * (found["products"] - 1), found["value"]]
    good = [abs(x / value - 1) <= WANTED for x in history]
    if not good[-1]:
        return None
    return next(k for k in range(len(good)) if all(good[k:])) + 1


def stopped_at(history: list[float], tol: float = 1e-3) -> int:
    """After how many products PyHessian's own rule stops."""
    for k in range(1, len(history)):
        if abs(history[k - 1] - history[k]) / (abs(history[k - 1]) + 1e-6) < tol:
            return k + 1
    return len(history)
