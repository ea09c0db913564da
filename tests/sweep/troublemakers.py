"""Optimizers that go wrong, or say what they do, when a step is taken."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class OddError(Exception):
    """An exception that can't be pickled back: its constructor takes two arguments."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} in {where}")


class _SGD(torch.optim.SGD):
    def __init__(self, params: Any, lr: float, marker: str = "") -> None:
        super().__init__(params, lr=lr)
        self.marker = Path(marker)


class Raises(_SGD):
    """Until the marker is there."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        if not self.marker.is_file():
            raise OddError("a step", "the test")
        return super().step(closure)


class Dies(_SGD):
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


class DiesOnce(_SGD):
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        if not self.marker.is_file():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(closure)


class Hangs(_SGD):
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        while True:
            time.sleep(60)


class Tells(_SGD):
    """Adds a line to the marker when a run takes its first step."""

    first = True

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        if self.first:
            self.first = False
            with self.marker.open("a") as file:
                file.write(f"{self.param_groups[0]['lr']}\n")
        return super().step(closure)


class LacksMemory(_SGD):
    """Adds a line to the marker at each try."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        with self.marker.open("a") as file:
            file.write("tried\n")
        raise torch.OutOfMemoryError("CUDA out of memory.")


class LacksMemoryForReal(_SGD):
    """Asks the CPU's allocator for a pebibyte."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        with self.marker.open("a") as file:
            file.write("tried\n")
        torch.zeros(2**50, dtype=torch.uint8)


class LackedMemory(_SGD):
    """At the first try."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        if not self.marker.is_file():
            self.marker.touch()
            raise MemoryError
        return super().step(closure)
