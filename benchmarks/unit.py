"""The unit of all tables: one gradient, which is one forward and backward over the same images.

The plain module in evaluation mode, contiguous NCHW, batches of 128. Times are taken twice: of
the wall, and of the processor, which other programs on the machine disturb less.
"""

import resource
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

BATCH = 128


@dataclass(frozen=True)
class Seconds:
    """Of one call."""

    wall: float
    cpu: float


def timed(work: Callable[[], Any]) -> tuple[Any, Seconds]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def gradient(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, training: bool = False
) -> None:
    """∇L of the mean cross-entropy, into ``.grad``; the mode is left as it was."""
    was, n = model.training, 0
    model.train(training)
    model.zero_grad(set_to_none=True)
    for x, y in batches:
        nn.functional.cross_entropy(model(x), y, reduction="sum").backward()
        n += len(y)
    for p in model.parameters():
        if p.grad is not None:
            p.grad /= n
    model.train(was)


def peak_bytes() -> int:
    """The most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():  # the other way counts the process that started this one, too
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def machine() -> dict[str, Any]:
    """What the times depend on."""
    import platform
    from datetime import date

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(names) or None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "date": date.today().isoformat(),
    }
