"""The unit of all tables: one gradient, which is one forward and backward over the same images.

The plain module in evaluation mode, contiguous NCHW, batches of 128. Times are taken twice: of
the wall, and of the processor, which other programs on the machine disturb less.
"""

import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

BATCH = 128
_LEAST = 0.05  # seconds that a unit is repeated for, where it is shorter


@dataclass(frozen=True)
class Seconds:
    """Of one call."""

    wall: float
    cpu: float


def timed(work: Callable[[], Any]) -> tuple[Any, Seconds]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def gradient(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """∇L of the mean cross-entropy; thrown away."""
    for x, y in batches:
        loss = nn.functional.cross_entropy(model(x), y, reduction="sum")
        torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


def unit(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Seconds:
    """The seconds of one gradient."""
    count, wall, cpu = 0, 0.0, 0.0
    while wall < _LEAST:
        _, seconds = timed(lambda: gradient(model, batches))
        count, wall, cpu = count + 1, wall + seconds.wall, cpu + seconds.cpu
    return Seconds(wall / count, cpu / count)


def interleaved(
    works: Mapping[str, Callable[[], Any]],
    unit: Callable[[], Seconds],
    *,
    rounds: int,
    seconds: float = float("inf"),
) -> dict[str, list[dict[str, Any]]]:
    """In each round a gradient, then each of the works, and a gradient after each.

    Rounds end early when ``seconds`` of the processor's time are spent. A work's gradients are its
    time over the mean of the units before and after it. What it returns is kept as "found".
    """
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in works}
    start = time.process_time()
    before = unit()
    for _ in range(rounds):
        for name, work in works.items():
            found, taken = timed(work)
            after = unit()
            run = asdict(taken)
            run["gradients"] = taken.cpu / ((before.cpu + after.cpu) / 2)
            run["wall_gradients"] = taken.wall / ((before.wall + after.wall) / 2)
            run["unit"] = (before.cpu + after.cpu) / 2
            if found is not None and not isinstance(found, Tensor):
                run["found"] = found
            runs[name].append(run)
            before = after
        if time.process_time() - start > seconds:
            break
    return runs


def over_seeds(
    work: Callable[[int], Any],
    unit: Callable[[], Seconds],
    *,
    seeds: int,
    seconds: float = float("inf"),
) -> list[dict[str, Any]]:
    """``work`` of one seed after another, interleaved with gradients."""
    numbers = iter(range(seeds))
    works = {"work": lambda: work(next(numbers))}
    return interleaved(works, unit, rounds=seeds, seconds=seconds)["work"]


def middle(values: Iterable[float]) -> float:
    return statistics.median(list(values))


def peak_bytes() -> int:
    """The most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():  # the other way counts the process that started this one, too
        return _status("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def held_bytes() -> int:
    """The memory that this process holds now; the peak is counted anew from here on (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def machine() -> dict[str, Any]:
    """What the times depend on."""
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


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])
