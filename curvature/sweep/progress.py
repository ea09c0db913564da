"""How far a sweep is, and how long it still takes by what its works have taken so far."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from curvature.sweep.work import GRADIENTS, Outcome, Work


@dataclass(frozen=True)
class SweepProgress:
    """``finished`` runs are trained and measured, or can't be; ``seconds_left`` None: unknown."""

    runs: int
    finished: int
    diverged: int
    failed: int
    works: int
    works_done: int
    seconds_left: float | None


@dataclass
class Clock:
    """Seconds that works took, by what makes them alike."""

    _seen: dict[tuple[object, ...], list[float]] = field(default_factory=dict)

    def observe(self, work: Work, seconds: float) -> None:
        """Count one in that was done."""
        self._seen.setdefault(_kind(work), []).append(seconds / _units(work))

    def left(
        self, waiting: Iterable[Work], running: Mapping[Work, float], workers: int
    ) -> float | None:
        """Seconds for all that ``waiting`` need and ``running`` since; None where one's unknown."""
        now, total = time.monotonic(), 0.0
        for work in waiting:
            expected = self._expected(work)
            if expected is None:
                return None
            begun = running.get(work)
            total += expected if begun is None else max(expected - (now - begun), 0.0)
        return total / max(workers, 1)

    def _expected(self, work: Work) -> float | None:
        seen = self._seen.get(_kind(work))
        return _units(work) * sum(seen) / len(seen) if seen else None


def progress(
    works: Iterable[Work], settled: Mapping[Work, Outcome], seconds_left: float | None
) -> SweepProgress:
    """Count by runs; the outcome of a run is its training's, or an analysis's that failed."""
    runs: dict[str, list[Outcome | None]] = {}
    for work in works:
        runs.setdefault(work.config.id, []).append(settled.get(work))
    statuses = [{each.status if each else None for each in found} for found in runs.values()]
    return SweepProgress(
        runs=len(runs),
        finished=sum(None not in each for each in statuses),
        diverged=sum("diverged" in each and "failed" not in each for each in statuses),
        failed=sum("failed" in each for each in statuses),
        works=sum(len(found) for found in runs.values()),
        works_done=len(settled),
        seconds_left=seconds_left,
    )


def _kind(work: Work) -> tuple[object, ...]:
    c = work.config
    if work.analysis is not None:
        return (work.analysis.id, c.model)
    return (c.model, c.data, c.epochs, c.steps, c.batch_size)


def _units(work: Work) -> int:
    return 1 if work.analysis is not None else GRADIENTS.get(work.config.optimizer, 1)
