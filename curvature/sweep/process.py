"""A worker process: its threads, its GPU, and how it ends."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import parent_process
from pathlib import Path
from types import FrameType

from curvature.sweep.lock import acquire

ENDED = 128 + signal.SIGTERM  # not 0: what a process leaves undone has to be noticed

_stop = threading.Event()
_finishing = False  # a step that is worth ending, and a checkpoint that is worth writing


def begin(threads: int, jobs: int, slots: str) -> None:
    """Set a fresh process up: its threads, and one of the GPUs that ``jobs`` share in turn."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches it too, its parent decides
    signal.signal(signal.SIGTERM, _terminate)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(threads)
    gpus = _gpus(torch.cuda.device_count())  # which does not begin to use them
    if gpus:
        shared = [gpus[i % len(gpus)] for i in range(jobs)]
        os.environ["CUDA_VISIBLE_DEVICES"], _ = take(shared, Path(slots))


def stopping() -> bool:
    """The process was asked to end: finish this step."""
    return _stop.is_set()


@contextmanager
def ending_gracefully() -> Iterator[None]:
    """Meanwhile SIGTERM lets `stopping` answer yes; at any other time it ends the process."""
    global _finishing
    _finishing = True
    try:
        yield
    finally:
        _finishing = False
        if _stop.is_set():
            os._exit(ENDED)


def take(gpus: Sequence[str], slots: Path) -> tuple[str, int]:
    """The first GPU whose slot no living process holds, and the file that holds it from now on."""
    while True:
        for i, gpu in enumerate(gpus):
            file = acquire(slots / str(i))
            if file is not None:
                return gpu, file
        time.sleep(0.1)  # the process that this one replaces is about to end


def _gpus(count: int) -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = [each.strip() for each in visible.split(",")] if visible else []
    return named[:count] if named else [str(i) for i in range(count)]


def _terminate(number: int, frame: FrameType | None) -> None:
    _stop.set()
    if not _finishing:
        os._exit(ENDED)


def _end_with_parent() -> None:
    """A sweep that is killed leaves no process behind that holds its runs."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(ENDED)
