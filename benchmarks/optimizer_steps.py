"""Step times of the optimizers in units of one gradient, measured interleaved in one process.

    python benchmarks/optimizer_steps.py            # about two minutes
    python benchmarks/optimizer_steps.py --quick    # a few seconds

A gradient is one forward and one backward pass over the same images in training mode. Times are
CPU seconds on one thread, so other processes on the machine disturb them little. Each round times
one gradient and then one step of each optimizer; printed are medians and quartiles over rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from curvature.optimizers import OPTIMIZERS, build, closure

EXPECTED = {"sgd": 1.0, "msgd": 1.0, "adam": 1.0, "sam": 2.0, "sa-sgd": 2.0, "sa-sam": 3.0}
LR = 1e-3


def network(width: int) -> nn.Sequential:
    """A small VGG-like network on 32×32 images."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    channels = 3
    for out in (width, 2 * width, 4 * width):
        layers += [
            nn.Conv2d(channels, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        channels = out
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 16, 10))


def seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(*, quick: bool) -> dict[str, Any]:
    """Each optimizer's step in gradients: the median and the quartiles over rounds."""
    rounds, width, images = (5, 16, 32) if quick else (40, 32, 64)
    inputs, targets = torch.randn(images, 3, 32, 32), torch.randint(10, (images,))
    work = _works(width, inputs, targets)
    for _ in range(2):  # the second step is the first with a w_{t−1}
        for step in work.values():
            step()
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, step in work.items():
            times[name].append(seconds(step))
    ratios = {
        name: statistics.quantiles(
            [t / g for t, g in zip(times[name], times["gradient"], strict=True)], n=4
        )
        for name in EXPECTED
    }
    size = sum(p.numel() for p in network(width).parameters())
    unit = statistics.median(times["gradient"])
    return {
        "parameters": size,
        "images": images,
        "rounds": rounds,
        "gradient": unit,
        "ratios": ratios,
    }


def _works(width: int, inputs: Tensor, targets: Tensor) -> dict[str, Callable[[], Any]]:
    loss_fn = nn.functional.cross_entropy
    plain = network(width)

    def gradient() -> None:
        plain.zero_grad()
        loss_fn(plain(inputs), targets).backward()

    work: dict[str, Callable[[], Any]] = {"gradient": gradient}
    for name in OPTIMIZERS:
        model = network(width)
        optimizer = build(name, model.parameters(), lr=LR, weight_decay=5e-4)
        work[name] = lambda optimizer=optimizer, model=model: optimizer.step(
            closure(model, loss_fn, [(inputs, targets)])
        )
    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, a smaller network")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    found = measure(quick=quick)
    print(
        f"{found['parameters']:,} parameters, {found['images']} images, torch {torch.__version__}, "
        "CPU, 1 thread"
    )
    print(f"gradient: {found['gradient'] * 1e3:.1f} ms; {found['rounds']} rounds")
    print(f"{'optimizer':<10}{'ratio':>7}{'quartiles':>16}{'expected':>10}{'off by':>8}")
    for name, expected in EXPECTED.items():
        low, middle, high = found["ratios"][name]
        off = middle / expected - 1
        print(f"{name:<10}{middle:>7.3f}{low:>9.3f}–{high:.3f}{expected:>9.1f}{off:>+8.1%}")


if __name__ == "__main__":
    main()
