"""Time to 1 % true error of Tr(H): root mean square over seeds against the exact value."""

import math
from functools import partial
from types import ModuleType
from typing import Any

from peers import ours
from results import Results
from subjects import Subject
from tables import pool, reference
from unit import interleaved, over_seeds, unit

WANTED = 0.01
_PRODUCTS = 3  # of the calls that are timed


def measure_peers(
    subject: Subject, tools: dict[str, ModuleType], results: Results, *, quick: bool
) -> None:
    """The reference, what the peers' estimators make of products, and what a product costs them."""
    key, small = f"trace/{subject.name}", subject.parameters < 10_000
    probes = 8 if quick else 400 if small else 40
    value = reference_of(subject, results, quick=quick)["value"]
    results.part(
        f"{key}/pool",
        lambda: pool.measure(subject, probes=probes, twice=min(probes, 40), value=value),
    )
    for name, tool in tools.items():
        results.part(
            f"{key}/calls/{name}",
            partial(_calls, subject, tool, rounds=1 if quick or not small else 5),
        )
        for method in tool.TRACES if small else ():
            results.part(
                f"{key}/direct/{name}/{method}",
                partial(_direct, subject, tool, method, value, seeds=3 if quick else 20),
            )


def measure_ours(subject: Subject, results: Results, *, quick: bool, seconds: float) -> None:
    """Seeds of our own, each from nothing, at tolerances around the one in question."""
    seeds = 3 if quick else 20
    others = () if quick else ((0.03, 10), (0.003, 10))
    for rtol, count in ((WANTED, seeds), *others):
        works = lambda rtol=rtol: (  # noqa: E731
            partial(ours.trace, subject.model, subject.batches, rtol=rtol)
        )
        results.part(
            f"trace/{subject.name}/ours/{rtol:g}",
            partial(_seeds, subject, works(), count, seconds if rtol == WANTED else seconds / 3),
        )


def reference_of(subject: Subject, results: Results, *, quick: bool = False) -> dict[str, Any]:
    return results.part(
        f"trace/{subject.name}/reference",
        lambda: reference.trace(subject, probes=8 if quick else 200),
    )


def _seeds(subject: Subject, work: Any, count: int, seconds: float) -> list[dict[str, Any]]:
    gradient = partial(unit, subject.model, subject.batches)
    return over_seeds(work, gradient, seeds=count, seconds=seconds)


def _calls(subject: Subject, tool: ModuleType, *, rounds: int) -> dict[str, Any]:
    """The tool's own Hutchinson with few products, per product; its other methods use the same."""
    call = partial(tool.trace, subject.model, subject.batches, _PRODUCTS, 0, "hutchinson")
    try:
        runs = interleaved(
            {"call": call}, lambda: unit(subject.model, subject.batches), rounds=rounds
        )["call"]
    except RuntimeError as error:
        return {"failed": str(error)[:200]}
    for run in runs:
        for figure in ("wall", "cpu", "gradients", "wall_gradients"):
            run[figure] /= _PRODUCTS
    return {"runs": runs}


def _direct(
    subject: Subject, tool: ModuleType, method: str, value: float, *, seeds: int
) -> dict[str, Any]:
    """The tool's own function over seeds: the error that it really has with so many products."""
    count = 60
    try:
        found = [
            tool.trace(subject.model, subject.batches, count, seed, method) for seed in range(seeds)
        ]
    except RuntimeError as error:
        return {"failed": str(error)[:200]}
    errors = [x / value - 1 for x in found]
    return {"products": count, "error": math.sqrt(sum(e * e for e in errors) / seeds)}


def products_needed(found: dict[str, Any], method: str) -> tuple[float, bool]:
    """Products to ``WANTED``, and whether that is extrapolated.

    Hutchinson's error falls as 1/√products. For the other two the smallest number that was seen to
    be enough; beyond the pool their errors are taken to fall as 1/products, the best known rate.
    """
    if method == "hutchinson":
        return (found["deviation"] / abs(found["value"]) / WANTED) ** 2, True
    errors = {int(k): e for k, e in found["errors"][method].items()}
    enough = [k for k, e in errors.items() if e <= WANTED]
    if enough:
        return min(enough), False
    last = max(errors)
    return last * errors[last] / WANTED, True
