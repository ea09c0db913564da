"""Processes of this machine that outlive their tasks, each other's deaths, and can be killed."""

import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from pebble import ProcessPool

from curvature.sweep import process


class LocalExecutor(Executor):
    """``jobs`` processes of ``threads`` threads each, and a GPU each where there are some.

    A process that dies, or is killed after ``timeout`` seconds of a limited task, fails that task
    alone and is replaced. The processes end with the one that made them.
    """

    def __init__(self, jobs: int = 1, *, threads: int = 1, timeout: float | None = None) -> None:
        for name, value in (("jobs", jobs), ("threads", threads)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if timeout is not None and timeout <= 0:
            raise ValueError(f"`timeout` must be above 0 seconds, got {timeout}.")
        self.jobs = jobs
        self.timeout = timeout
        self._slots = tempfile.TemporaryDirectory(prefix="curvature-sweep-")
        self._settings = (threads, jobs, self._slots.name)
        self._pool = self._new_pool()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Run it, however long it takes, in the next process that is free."""
        return self._schedule(function, args, kwargs, None)

    def submit_limited(
        self, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> "Future[Any]":
        """The same, but it is killed ``timeout`` seconds after it began."""
        return self._schedule(function, args, kwargs, self.timeout)

    def _schedule(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None,
    ) -> "Future[Any]":
        if not self._pool.active:  # broken: a process died while none had anything to do
            self._stop()
            self._pool = self._new_pool()
        future: Future[Any] = self._pool.schedule(function, args, kwargs, timeout)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes, after what they have to do or at once."""
        if cancel_futures:
            self._stop()
        else:
            self._pool.close()
            if wait:
                self._pool.join()
        if wait or cancel_futures:
            self._slots.cleanup()

    def _new_pool(self) -> ProcessPool:
        context = multiprocessing.get_context("spawn")
        return ProcessPool(
            self.jobs, initializer=process.begin, initargs=self._settings, context=context
        )

    def _stop(self) -> None:
        self._pool.stop()
        self._pool.join()
