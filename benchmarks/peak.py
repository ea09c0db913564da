"""The memory that one piece of work takes above a loaded network and a batch, in its own process.

    python benchmarks/peak.py resnet20 product --images 128

Prints JSON. Random weights and images: memory doesn't depend on them. Linux only.
"""

import argparse
import json
from collections.abc import Callable

import torch
from torch import nn

import peers
from curvature import models
from peers import ours
from unit import held_bytes, peak_bytes

PIECES = ("training step", "gradient", "product", "product, graph kept", *peers.MODULES)
TIMES = 4  # the batch stands for as many: our way of forming products is chosen on 32 images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("piece", choices=PIECES)
    parser.add_argument("--images", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = models.build(args.model, input_shape=(3, 32, 32), classes=10).eval()
    batch = torch.randn(args.images, 3, 32, 32), torch.randint(10, (args.images,))
    work = _work(args.piece, model, batch)
    small = models.build("cnn:width=2", input_shape=(3, 32, 32), classes=10).eval()
    _work(args.piece, small, (batch[0][:2], batch[1][:2]))()  # loads what is loaded lazily
    before = held_bytes()
    work()
    print(json.dumps({"before": before, "above": peak_bytes() - before}))


def _work(
    piece: str, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]
) -> Callable[[], object]:
    """A product includes building what it needs; its vector and result count."""
    n = sum(p.numel() for p in model.parameters())
    if piece == "training step":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return lambda: _step(model, optimizer, batch)
    if piece == "gradient":
        return lambda: nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    if piece == "product":
        return lambda: ours.hessian(model, [batch] * TIMES) @ ours.vector(n, 0)
    if piece == "product, graph kept":
        return lambda: _twice(model, batch, ours.vector(n, 0))
    tool = peers.installed()[piece]
    return lambda: tool.product(model, [batch])(ours.vector(n, 0))


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple) -> None:
    model.train()
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()


def _twice(model: nn.Module, batch: tuple, v: torch.Tensor) -> None:
    several, H = ours.hessian(model, [batch] * TIMES), ours.hessian(model, [batch])
    H.way = several.choose_way()
    H.risk.micro_batch = several.risk.micro_batch
    with H.linearized() as A:
        for _ in range(2):
            A @ v


if __name__ == "__main__":
    main()
