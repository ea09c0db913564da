"""Processes of this machine that outlive their tasks, each other's deaths, and can be killed."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import torch
from pebble import ProcessPool

from curvature.sweep import process


class LocalExecutor(Executor):
    """``jobs`` processes of ``threads`` threads each, and a GPU each where there are some.

    A process that dies, or takes longer than ``timeout`` seconds for a task and is killed, fails
    that task alone and is replaced. The processes end with the one that made them.
    """

    def __init__(self, jobs: int = 1, *, threads: int = 1, timeout: float | None = None) -> None:
        for name, value in (("jobs", jobs), ("threads", threads)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if timeout is not None and timeout <= 0:
            raise ValueError(f"`timeout` must be above 0 seconds, got {timeout}.")
        self.jobs = jobs
        self.timeout = timeout
        gpus = _gpus()
        shared = [gpus[i % len(gpus)] for i in range(jobs)] if gpus else []
        self._slots = process.slot_folder(shared)
        self._settings = (threads, shared, self._slots.name if self._slots else None)
        self._pool = self._new_pool()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Run it in the next process that is free; ``timeout`` counts from then."""
        if not self._pool.active:  # broken: a process died while none had anything to do
            self._stop()
            self._pool = self._new_pool()
        future: Future[Any] = self._pool.schedule(function, args, kwargs, self.timeout)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes, after what they have to do or at once."""
        if cancel_futures:
            self._stop()
        else:
            self._pool.close()
            if wait:
                self._pool.join()
        if self._slots is not None and (wait or cancel_futures):
            self._slots.cleanup()

    def _new_pool(self) -> ProcessPool:
        context = multiprocessing.get_context("spawn")
        return ProcessPool(
            self.jobs, initializer=process.begin, initargs=self._settings, context=context
        )

    def _stop(self) -> None:
        self._pool.stop()
        self._pool.join()


def _gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES would name them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    named = [each.strip() for each in visible.split(",")] if visible else []
    return named[:count] if named else [str(i) for i in range(count)]
