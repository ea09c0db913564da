"""Cheap checks, on a few examples, of what would make curvature silently wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from curvature.derivatives.products import gradient
from curvature.empirical_risk.evaluation import random_state
from curvature.empirical_risk.nested import floats_in, part_of, shapes_in, uneven_parts
from curvature.empirical_risk.outputs import call_model, taken_apart
from curvature.losses import NO_MEAN, Loss, check_reduction, examples_in, not_additive

_MISFIT = re.compile(
    r"shape|dimension|channels|expected input|size mismatch|index out of range|scalar types"
)
_SAME = 1e-4  # between two passes, relative to the largest entry: rounding on a GPU
ALIKE = 1e-3  # between passes of different batch sizes, which other kernels compute
_SLOPE = 1e-2  # between gradients, relative to the sum of their lengths
Pick = Callable[[Any], Any]  # of what a model returned, what the loss takes


@dataclass(frozen=True)
class _Call:
    """What went in and out of a module."""

    name: str
    inputs: Tensor
    outputs: Tensor


def check_repeatable(model: nn.Module, part: Any, pick: Pick, *, locate: bool = True) -> bool:
    """Refuse a model that gives other outputs for the same inputs, naming the module.

    Returns whether random numbers were drawn at all; with none, more examples show no more.
    To ``locate`` takes the memory of all activations, twice.
    """
    state = random_state()
    with _naming_inputs(part[0]):
        first, ends = _calls(model, part[0], pick, locate)
    second, again = _calls(model, part[0], pick, locate)
    if all_close(ends, again, _SAME):
        return random_state() != state
    culprit = _culprit(model, first, second, _SAME)
    raise ValueError(
        f"The model gives different outputs for the same inputs: {culprit or 'it'} draws random "
        "numbers (dropout in training mode, F.dropout without `training=self.training`, noise), "
        "so each product would belong to another function. Switch it off."
    )


@contextmanager
def _naming_inputs(inputs: Any) -> Iterator[None]:
    """Say what the model was given where an operation in it refuses that."""
    try:
        yield
    except (RuntimeError, IndexError) as error:
        if not _MISFIT.search(str(error)):  # memory that ran out is another's to handle
            raise
        given = ", ".join(map(str, shapes_in(inputs)))
        raise ValueError(
            f"The model can't take these inputs, of shape {given} with the examples first: "
            f"{error}. Give the data that it was made for."
        ) from error


def check_independent(model: nn.Module, part: Any, pick: Pick) -> None:
    """Refuse a model in which an example's outputs depend on the other examples of its batch."""
    n = examples_in(part[0])
    if n < 2:
        return
    together, ends = _calls(model, part[0], pick)
    m = max(min(2, n - 1), n // 2)  # BatchNorm takes no batch of one
    for start, stop in ((0, m), (n - m, n)):
        alone, found = _calls(model, part_of(part[0], start, stop, n), pick)
        if not all_close([_cut(t, start, stop, n) for t in ends], found, ALIKE):
            break
    else:
        return
    expected = [
        _Call(c.name, _cut(c.inputs, start, stop, n), _cut(c.outputs, start, stop, n))
        for c in together
    ]
    culprit = _culprit(model, expected, alone, ALIKE)
    raise ValueError(
        f"The outputs of an example depend on the other examples of its batch{_in(culprit)}"
        f"{_batch_norms(model)}: the batches' Hessians would belong to different functions. Call "
        "`model.eval()` with running statistics, or pass all examples as a single batch."
    )


def check_sum(loss: Loss, outputs: Any, targets: Any) -> None:
    """Refuse a loss whose value for this batch is not the mean over its examples."""
    n = examples_in(targets)
    if n < 2 or not any(t.ndim and len(t) == n for t in floats_in(outputs)):
        return
    parts = uneven_parts((outputs, targets), n)
    check_reduction(loss, (outputs, targets), parts)
    if not loss.additive:
        _check_slopes(loss, (outputs, targets), parts, n)


def _check_slopes(loss: Loss, whole: tuple[Any, Any], parts: list[tuple[Any, Any]], n: int) -> None:
    """The same of ∂ℓ/∂f: where all examples have the same loss, a wrong weight changes no value."""
    slopes = []
    for outputs, targets in (whole, *parts):
        _, loss_sum, leaves = taken_apart(loss, outputs, targets)
        with torch.enable_grad():
            slopes.append(gradient(loss_sum(), leaves))
    for one, *others in zip(*slopes, strict=True):
        if not one.ndim or len(one) != n:
            continue
        gap = float((one - torch.cat(others)).norm())
        if gap > _SLOPE * (float(one.norm()) + sum(float(g.norm()) for g in others)):
            raise not_additive(loss.name, NO_MEAN)


def _calls(
    model: nn.Module, inputs: Any, pick: Pick, inner: bool = True
) -> tuple[list[_Call], list[Tensor]]:
    """The calls of all modules, inner ones first, and what the loss takes in the end."""
    calls: list[_Call] = []
    with torch.no_grad(), _recording(model, calls) if inner else nullcontext():
        returned = call_model(model, inputs)
    return calls, floats_in(pick(returned))


@contextmanager
def _recording(model: nn.Module, calls: list[_Call]) -> Iterator[None]:
    def recorder(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            x, y = _first_tensor((args, kwargs)), _first_tensor(output)
            if x is not None and y is not None:
                calls.append(_Call(name, x.clone(), y.clone()))

        return hook

    hooks = []
    try:
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # takes no hooks
            hooks.append(module.register_forward_hook(recorder(name), with_kwargs=True))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _first_tensor(tree: Any) -> Tensor | None:
    if isinstance(tree, Tensor):
        return tree
    items = tree.values() if isinstance(tree, dict) else tree
    if not isinstance(items, (tuple, list)) and not isinstance(tree, dict):
        return None
    return next((t for t in map(_first_tensor, items) if t is not None), None)


def _cut(t: Tensor, start: int, stop: int, n: int) -> Tensor:
    """What ``t`` should be for examples ``start``:``stop`` alone, of the ``n`` together.

    Outputs may be flattened, (n · T, C) with T rows an example.
    """
    rows = len(t) // n if t.ndim and len(t) % n == 0 else 0
    return t[start * rows : stop * rows] if rows else t


def _culprit(model: nn.Module, a: list[_Call], b: list[_Call], rtol: float) -> str:
    """The first module, innermost, that makes different outputs of the same inputs."""
    for one, other in zip(a, b, strict=False):
        if one.name != other.name:
            break
        if _close(one.inputs, other.inputs, rtol) and not _close(one.outputs, other.outputs, rtol):
            kind = type(dict(model.named_modules())[one.name]).__name__
            return f"`{one.name}` ({kind})" if one.name else f"the model itself ({kind})"
    return ""


def _in(culprit: str) -> str:
    return f", in {culprit}" if culprit else ""


def _batch_norms(model: nn.Module) -> str:
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and (module.training or module.running_mean is None)
    ]
    return f" (BatchNorm uses the batch's own statistics in {', '.join(names[:3])})" * bool(names)


def all_close(xs: list[Tensor], ys: list[Tensor], rtol: float) -> bool:
    """Whether all are equal but for rounding."""
    return len(xs) == len(ys) and all(_close(x, y, rtol) for x, y in zip(xs, ys, strict=True))


def _close(x: Tensor, y: Tensor, rtol: float) -> bool:
    """Equal but for rounding, relative to the largest entry; NaN equals NaN."""
    if x.shape != y.shape:
        return False
    if torch.equal(x, y):
        return True
    if x.device.type == "mps":  # has no float64
        x, y = x.cpu(), y.cpu()
    x, y = x.double(), y.double()
    scale = float(torch.nan_to_num(x).abs().max()) if x.numel() else 0.0
    return torch.allclose(x, y, rtol=0.0, atol=rtol * scale, equal_nan=True)
