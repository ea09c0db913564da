"""Ways to form the same products, one chosen by a short measurement on the machine at hand.

Plain double backward is the reference. Another way is taken only where its outputs and a product
agree with the reference's on a few examples, and where it is as fast.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from curvature.derivatives.cost import Saved
from curvature.derivatives.fold import NOTHING, Folding, common, recorded
from curvature.derivatives.memory import is_out_of_memory
from curvature.empirical_risk import EmpiricalRisk
from curvature.empirical_risk.nested import joined
from curvature.linalg.operator import norm
from curvature.operators.kinds import Kind, product

WORTH_IT = 64  # examples from which on a measurement pays
MEASURED = (16, 32)  # examples on which ways are compared: one in ONE_IN of all, within these,
ONE_IN = 16
OF_ALL = 64  # or more where that is one in so many: some costs are per call, not per example
# Of plain double backward's time. The ways with own convolutions hold half the memory, and gain
# more on many examples: a narrow VGG-19 took 1.1 of it on 32 images, 0.75 on 128.
AS_FAST = 1.2
FASTER = 0.95  # of the time that the way before it takes
# Relative, of outputs and of products. Where a ReLU's input rounds to the other side of 0, float32
# products of 32 images differ by 3e-4 to 2e-3 from float64 ones, plain ones as often.
_AGREE = {torch.float32: (1e-4, 1e-2), torch.float64: (1e-10, 1e-8)}


@dataclass(frozen=True)
class Way:
    """How the network is run for a product; ``name`` is for the record.

    ``held``: bytes that a product's graph takes per example, where that was measured.
    """

    name: str = "double backward"
    folding: Folding = NOTHING
    channels_last: bool = False
    held: float = field(default=0.0, compare=False)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """The network's modules as this way has them."""
        with self.folding.applied():
            yield

    def part(self, part: Any) -> Any:
        """The micro-batch as this way has it."""
        return (_channels_last(part[0]), *part[1:]) if self.channels_last else part


PLAIN = Way()


def fastest(risk: EmpiricalRisk, kind: Kind) -> Way:
    """The fastest way that agrees with plain double backward; inside the risk's ``evaluating``."""
    if risk.survey.examples < WORTH_IT:
        return PLAIN
    part = risk.few(next(iter(risk.batches)), min(_count(risk.survey.examples), risk.largest_part))
    folding = _replaceable(risk, part)
    if folding == NOTHING:
        return PLAIN
    own = ["convolutions"] * bool(folding.pairs) + ["softmax"] * folding.softmax
    name = f"double backward, own {' and '.join(own)}"
    if folding.folded:
        name += f", {folding.folded} BatchNorms folded"
    ways = [Way(name, folding)]
    if folding.pairs and _holds_images(risk, part):
        ways.append(Way(f"{name}, channels last", folding, channels_last=True))
    return _fastest_of(ways, risk, kind, part)


def _replaceable(risk: EmpiricalRisk, part: Any) -> Folding:
    """What is there to be replaced; nothing where a look at it fails.

    It is looked for without a graph, which a loss with a gradient in it can't do without.
    """

    def seen(part: Any) -> Folding:
        return recorded(risk.model, partial(_value, risk, part))

    try:
        folding = seen(part)
        if folding == NOTHING or risk.loss is None or risk.mode != "eval":
            return folding
        return common([folding, *map(seen, risk.representatives.parts)])
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return NOTHING


def _holds_images(risk: EmpiricalRisk, part: Any) -> bool:
    return risk.loss is not None and isinstance(part[0], Tensor) and part[0].ndim == 4


def _count(examples: int) -> int:
    least, enough = MEASURED
    return max(least, min(examples // ONE_IN, enough), examples // OF_ALL)


def _fastest_of(ways: list[Way], risk: EmpiricalRisk, kind: Kind, part: Any) -> Way:
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(risk.size, generator=generator).to(risk.device, risk.dtype)
    reference, best = _tried(PLAIN, risk, kind, part, v)
    for way in ways:
        try:
            found, tried = _tried(way, risk, kind, part, v)
        except Exception:
            continue  # a `view` of what is no longer contiguous, say, or a type that isn't known
        limit = AS_FAST if best.way is PLAIN else FASTER
        if tried.seconds < limit * best.seconds and _agree(found, reference, risk.dtype):
            best = tried
    return replace(best.way, held=best.held / risk.examples_in(part))


@dataclass(frozen=True)
class _Tried:
    """Seconds of the faster of two products, and the bytes that a graph holds."""

    way: Way
    seconds: float
    held: int


def _tried(
    way: Way, risk: EmpiricalRisk, kind: Kind, part: Any, v: Tensor
) -> tuple[list[Tensor], _Tried]:
    """What the network gives, a product, and what the way costs."""
    part = way.part(part)
    times, saved = [], Saved(risk.leaves)
    with way.taken():
        value = _value(risk, part)
        for counting in (saved.counting, nullcontext):
            Av = value  # lets the first go before the second is there
            start = _clock(risk.device)
            with counting():
                Av = risk.flatten(product(kind, risk, part, risk.split(v)))
            float(Av[0])  # waits for an accelerator
            times.append(_clock(risk.device) - start)
    return [value, Av], _Tried(way, min(times), saved.bytes)


def _value(risk: EmpiricalRisk, part: Any) -> Tensor:
    if risk.loss is None:
        return risk.loss_sum(part).detach()
    with torch.no_grad():
        return joined(risk.predictions(part))


def _agree(found: list[Tensor], reference: list[Tensor], dtype: torch.dtype) -> bool:
    return all(
        a.shape == b.shape and bool(norm((a - b).reshape(-1)) <= rtol * norm(b.reshape(-1)))
        for a, b, rtol in zip(found, reference, _AGREE[dtype], strict=True)
    )


def _clock(device: torch.device) -> float:
    """The processor's time where the work is the processor's: other programs don't count."""
    return time.process_time() if device.type == "cpu" else time.perf_counter()


def _channels_last(inputs: Tensor) -> Tensor:
    return inputs.contiguous(memory_format=torch.channels_last)
