"""Go through a grid: hand works to an executor, and settle what becomes of them."""

import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

from curvature.runs.files import CannotWriteError
from curvature.sweep.local import LocalExecutor
from curvature.sweep.progress import Clock, SweepProgress, progress
from curvature.sweep.work import Outcome, Work, message_of, on_disk, perform, record_failure

TICK = 0.05  # seconds between looks at what is running
TOLD = 1.0  # seconds between reports while nothing ends
ELSEWHERE = 1.0  # seconds between looks at a run that another sweep has


class Run:
    """Works by their state: settled, waiting to be handed out, running, or done elsewhere."""

    def __init__(
        self,
        works: Iterable[Work],
        retry_failed: bool,
        report: Callable[[SweepProgress], object],
        announce: Callable[[str], None],
    ) -> None:
        self.settled: dict[Work, Outcome] = {}
        self._works, self._retry_failed = list(works), retry_failed
        self._report, self._announce = report, announce
        self._analyses: dict[str, list[Work]] = {}
        self._waiting: deque[Work] = deque()
        self._running: dict[Work, tuple[Any, float]] = {}
        self._elsewhere: dict[Work, float] = {}
        self._tries: Counter[Work] = Counter()
        self._clock = Clock()
        self._told = 0.0
        for work in self._works:
            if work.analysis is not None:
                self._analyses.setdefault(work.config.id, []).append(work)
        for work in self._works:
            self._look(work)

    @property
    def unsettled(self) -> list[Work]:
        """What is left to do."""
        return [work for work in self._works if work not in self.settled]

    def go(self, executor: Any) -> None:
        """Do it all. Polls, since not everyone's futures can be waited for."""
        limit = executor.jobs if isinstance(executor, LocalExecutor) else len(self._works)
        trained = {work.config.id for work in self.settled if work.analysis is None}
        self._waiting = deque(
            work for work in self.unsettled if work.analysis is None or work.config.id in trained
        )
        while self._waiting or self._running or self._elsewhere:
            while self._waiting and len(self._running) < limit:
                self._hand_out(self._waiting.popleft(), executor)
            ended = [work for work, (future, _) in self._running.items() if future.done()]
            for work in ended:
                self._collect(work, *self._running.pop(work))
            self._look_elsewhere()
            self._tell(limit, anyway=bool(ended))
            if not ended:
                time.sleep(TICK)

    def _look(self, work: Work) -> None:
        there = on_disk(work)
        if there is None or work in self.settled:
            return
        failed = there.status == "failed"
        if failed and self._retry_failed:
            return
        if failed and not all(path.exists() for path in work.rows):
            record_failure(work, there.message or "")
        self._settle(work, there)

    def _hand_out(self, work: Work, executor: Any) -> None:
        again = self._retry_failed or self._tries[work] > 0
        limited = isinstance(executor, LocalExecutor)
        submit = executor.submit_limited if limited else executor.submit
        self._running[work] = (submit(perform, work, again=again), time.monotonic())

    def _collect(self, work: Work, future: Any, begun: float) -> None:
        error = future.exception()
        if isinstance(error, CannotWriteError):
            raise error
        outcome = Outcome("failed", _why(error), again=True) if error else future.result()
        if outcome is None:
            self._elsewhere[work] = time.monotonic()
            return
        self._tries[work] += 1
        if outcome.again and self._tries[work] == 1:
            self._announce(f"{work}: {outcome.message}; trying once more.")
            self._waiting.appendleft(work)
        elif outcome.status == "failed" and not record_failure(work, outcome.message or ""):
            self._elsewhere[work] = time.monotonic()
        else:
            if outcome.status == "failed" or (outcome.status == "diverged" and not work.analysis):
                self._announce(f"{work} {outcome.status}: {outcome.message}")
            self._clock.observe(work, time.monotonic() - begun)
            self._settle(work, outcome)

    def _settle(self, work: Work, outcome: Outcome) -> None:
        """Then its analyses come next; those of what can't be trained fail with it."""
        self.settled[work] = outcome
        if work.analysis is not None:
            return
        left = [each for each in self._analyses.get(work.config.id, ()) if each not in self.settled]
        if outcome.status != "failed":
            self._waiting.extendleft(reversed(left))
            return
        for each in left:
            if on_disk(each) is None:
                record_failure(each, outcome.message or "")
            self.settled[each] = outcome

    def _look_elsewhere(self) -> None:
        now = time.monotonic()
        for work in [w for w, since in self._elsewhere.items() if now - since > ELSEWHERE]:
            del self._elsewhere[work]
            self._waiting.append(work)

    def _tell(self, limit: int, *, anyway: bool) -> None:
        now = time.monotonic()
        if anyway or now - self._told > TOLD:
            begun = {work: since for work, (_, since) in self._running.items()}
            left = self._clock.left(self.unsettled, begun, min(limit, len(begun)))
            self._report(progress(self._works, self.settled, left))
            self._told = now


def _why(error: BaseException) -> str:
    """What became of a work whose process can't tell."""
    code = getattr(error, "exitcode", None)
    if code is not None:
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        hint = ", for lack of memory perhaps" if code == -signal.SIGKILL else ""
        return f"its process died ({name}){hint}"
    if isinstance(error, TimeoutError):
        return f"it was killed after {error.args[-1] if error.args else '?'} seconds"
    return message_of(error)
