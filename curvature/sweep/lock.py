"""One process at a time works on a run: an advisory lock that dies with its holder.

``fcntl.flock`` (Linux, macOS): the system releases it whatever becomes of the process, so a lock
is never left behind, only its empty file.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of ``folder``, which is made where it is missing; False: another holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = acquire(folder / ".lock")
    try:
        yield file is not None
    finally:
        if file is not None:
            os.close(file)


def acquire(path: Path) -> int | None:
    """The open file that holds the lock until it is closed; None where another process has it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file
