"""One product with the Hessian, in gradients."""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch

from peers import ours
from results import Results
from subjects import Subject
from unit import interleaved, unit

AT_ONCE = 4  # vectors that curvlinops multiplies together


def measure(
    subject: Subject, tools: dict[str, ModuleType], results: Results, *, rounds: int
) -> None:
    """Ours and the peers' in turn, on at most 512 images."""
    model, batches = subject.model, subject.batches[:4]
    v = ours.vector(subject.parameters, 0)
    with ours.kept(model, batches) as kept:
        works: dict[str, Callable[[], Any]] = {
            "ours/kept": partial(kept, v),
            "ours/rebuilt": partial(ours.hessian(model, batches).__matmul__, v),
            "ours/plain": partial(ours.hessian(model, batches, plain=True).__matmul__, v),
        }
        for name, tool in tools.items():
            works[name] = partial(tool.product(model, batches), v)
        if "curvlinops" in tools:
            V = torch.stack([ours.vector(subject.parameters, i) for i in range(AT_ONCE)], 1)
            works["curvlinops/4 at once"] = partial(tools["curvlinops"].product(model, batches), V)
        for work in works.values():
            work()  # the first builds graphs and chooses ways
        results.part(
            f"hvp/{subject.name}",
            lambda: {
                "images": sum(len(y) for _, y in batches),
                "way": ours_way(model, batches),
                "runs": interleaved(works, lambda: unit(model, batches), rounds=rounds),
            },
        )


def ours_way(model: torch.nn.Module, batches: list[Any]) -> str:
    H = ours.hessian(model, batches)
    H @ torch.ones(H.size)
    return H.method
