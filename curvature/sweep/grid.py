"""The grid of a sweep: what is swept, and every combination of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import prod

from curvature.runs.config import RunConfig

Values = Mapping[str | None, Sequence[float]]  # by optimizer; None: of all that have none of theirs

MOST = 100_000  # runs of a sweep, each a folder
TAKE_RHO = ("sam",)  # sa-sam has a radius of its own


def grid(
    base: RunConfig,
    *,
    optimizers: Sequence[str],
    lr: Values | None = None,
    weight_decay: Values | None = None,
    rho: Values | None = None,
    seeds: int = 1,
) -> list[RunConfig]:
    """Each optimizer × lr × weight decay (× ρ, of those that take it) × seed, else as ``base``.

    Seed after seed, so that one run of every cell is there early; ``base.seed`` is the first.
    """
    if seeds < 1:
        raise ValueError(f"A sweep has at least 1 seed, got {seeds}.")
    for what, values in (("lr", lr), ("weight_decay", weight_decay), ("rho", rho)):
        _refuse_strangers(what, values or {}, optimizers)
    count = seeds * sum(
        prod(len(_of(name, values)) or 1 for values in (lr, weight_decay, rho))
        for name in optimizers
    )
    if count > MOST:
        raise ValueError(
            f"The grid has {count:,} runs, and a sweep takes {MOST:,} at most: give fewer values "
            "or seeds, or sweep parts of it into one folder."
        )
    configs = [
        replace(base, optimizer=name, lr=eta, weight_decay=decay, rho=radius, seed=base.seed + i)
        for i in range(seeds)
        for name in optimizers
        for eta, decay, radius in product(
            _of(name, lr) or [base.lr],
            _of(name, weight_decay) or [base.weight_decay],
            _radii(name, rho, base.rho),
        )
    ]
    return list({config.id: config for config in configs}.values())


def values(texts: Iterable[str], what: str) -> dict[str | None, list[float]]:
    """Numbers separated by commas; ``adam=1e-3,1e-2`` are one optimizer's own.

    >>> values(["0.1,1", "adam=1e-3,1e-2"], "lr")
    {None: [0.1, 1.0], 'adam': [0.001, 0.01]}
    """
    found: dict[str | None, list[float]] = {}
    for text in texts:
        name, equals, numbers = text.rpartition("=")
        for number in numbers.split(","):
            try:
                found.setdefault(name if equals else None, []).append(float(number))
            except ValueError:
                raise ValueError(
                    f"`{what}` takes numbers separated by commas, or OPTIMIZER=numbers; "
                    f"`{number}` in `{text}` is none."
                ) from None
    return found


def _of(name: str, values: Values | None) -> Sequence[float]:
    values = values or {}
    return values.get(name) or values.get(None) or ()


def _radii(name: str, rho: Values | None, default: float | None) -> Sequence[float | None]:
    """ρ without an optimizer's name is for those that are known to take it."""
    if name in TAKE_RHO:
        return _of(name, rho) or [default]
    return (rho or {}).get(name) or [None]


def _refuse_strangers(what: str, values: Values, optimizers: Sequence[str]) -> None:
    for name in values:
        if name is not None and name not in optimizers:
            raise ValueError(
                f"`{what}` is given for `{name}`, which isn't swept: only {', '.join(optimizers)}."
            )
