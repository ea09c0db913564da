"""Anyone's loss as a `Loss`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curvature import names
from curvature.losses.bundled import LOSSES, bce, cross_entropy, huber, mse, nll
from curvature.losses.loss import Loss

_FUNCTIONS: dict[Callable[..., Any], Callable[..., Loss]] = {
    F.cross_entropy: cross_entropy,
    F.mse_loss: mse,
    F.binary_cross_entropy_with_logits: bce,
    F.huber_loss: huber,
    F.nll_loss: nll,
}


def as_loss(loss: Any) -> Loss:
    """Any loss as a `Loss`: a name, a torch.nn loss, or a callable of (outputs, targets).

    A callable returns one number per example, or (mean, weight) of the batch, or the mean over the
    batch's examples. ``check_reduction`` tests the last.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str):
        spec = names.parse(loss, LOSSES)
        made = names.resolve(spec.name, LOSSES, "loss")
        if spec.name not in LOSSES:
            return _from_callable(made, spec.name)
        result: Loss = names.call(made, spec.options, f"loss `{spec.name}`")
        return result
    if isinstance(loss, nn.Module):
        twin = _from_module(loss)
        if twin is not None:
            return twin
    if not callable(loss):
        raise TypeError(
            f"`loss` must be a name, a module or a callable, got {type(loss).__name__}."
        )
    if loss in _FUNCTIONS:
        return _FUNCTIONS[loss]()
    return _from_callable(loss, getattr(loss, "__name__", type(loss).__name__))


def as_function(loss: Any) -> Callable[..., Any]:
    """``module:function`` imported; any other callable as it is."""
    if isinstance(loss, str):
        return names.resolve(names.parse(loss, LOSSES).name, LOSSES, "loss")
    if not callable(loss):
        raise TypeError(f"`loss` must be a name or a callable, got {type(loss).__name__}.")
    function: Callable[..., Any] = loss
    return function


def takes_the_model(loss: Any) -> bool:
    """Whether a callable is a whole ``loss(model, batch)``: its first parameter is so named."""
    if isinstance(loss, (Loss, nn.Module)) or (
        isinstance(loss, str) and names.parse(loss, LOSSES).name in LOSSES
    ):
        return False
    try:
        first = next(iter(inspect.signature(as_function(loss)).parameters), "")
    except (TypeError, ValueError):
        return False
    return first in ("model", "net", "network", "module")


def check_reduction(loss: Loss, outputs: Any, targets: Any) -> None:
    """Refuse a callable whose value for a batch is not the mean over its examples.

    Compares the batch with its two halves; finds sums, class weights and padding in one go.
    """
    n = len(outputs) if isinstance(outputs, Tensor) and outputs.ndim else 0
    if n < 2 or not isinstance(targets, Tensor) or len(targets) != n:
        return
    with torch.no_grad():
        cut = max(1, n // 3)  # uneven, so that a mean of the halves' means is not enough
        parts = [(outputs[:cut], targets[:cut]), (outputs[cut:], targets[cut:])]
        whole = float(loss.sum(outputs, targets))
        halves = sum(float(loss.sum(f, y)) for f, y in parts)
        values = [float(loss.sum(f, y)) / len(f) for f, y in parts]
    if not abs(whole - halves) <= 1e-3 * max(abs(whole), abs(halves)):
        is_sum = abs(whole / n - sum(values)) <= 1e-3 * abs(sum(values))
        cause = "a sum over the batch" if is_sum else "not the mean over the batch's examples"
        raise ValueError(
            f"The loss `{loss.name}` returns {cause} (padding or class weights?), so batches could "
            "not be weighed. Return one number per example, or the pair (mean, weight) with the "
            "weight that the mean divides by."
        )


def _from_callable(function: Callable[..., Any], name: str) -> Loss:
    def value_and_weight(outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
        value = function(outputs, targets)
        if isinstance(value, tuple):
            mean, weight = value
            weight = torch.as_tensor(weight, device=mean.device)
            return mean, weight
        if not isinstance(value, Tensor):
            raise TypeError(f"The loss `{name}` returned a {type(value).__name__}, not a tensor.")
        if value.ndim == 0:
            return value, torch.tensor(examples_in(targets, outputs))
        return value.mean(), torch.tensor(value.numel())

    def sum_(outputs: Any, targets: Any) -> Tensor:
        mean, weight = value_and_weight(outputs, targets)
        return mean * weight if float(weight) else torch.zeros_like(mean)

    def weight(outputs: Any, targets: Any) -> Tensor:
        return value_and_weight(outputs, targets)[1].detach()

    return Loss(name, sum_, weight)


def _from_module(module: nn.Module) -> Loss | None:
    """The twin of a torch.nn loss, with its class weights, reduction and so on."""
    options: dict[str, Any] = {"reduction": "sum" if module_reduction(module) == "sum" else "mean"}
    if type(module) is nn.CrossEntropyLoss:
        return cross_entropy(
            label_smoothing=module.label_smoothing,
            ignore_index=module.ignore_index,
            class_weights=module.weight,
            **options,
        )
    if type(module) is nn.MSELoss:
        return mse(**options)
    if type(module) is nn.BCEWithLogitsLoss and module.weight is None and module.pos_weight is None:
        return bce(**options)
    if type(module) is nn.HuberLoss:
        return huber(delta=module.delta, **options)
    if type(module) is nn.NLLLoss and module.weight is None:
        return nll(ignore_index=module.ignore_index, **options)
    return None


def module_reduction(module: nn.Module) -> str:
    """The ``reduction`` of a torch.nn loss; "mean" where it has none."""
    return str(getattr(module, "reduction", "mean"))


def examples_in(*trees: Any) -> int:
    """The leading dimension of the first tensor found in nested batches."""
    for tree in trees:
        if isinstance(tree, Tensor) and tree.ndim:
            return len(tree)
        items = tree.values() if hasattr(tree, "values") else tree
        if isinstance(items, (str, bytes, Tensor)) or not hasattr(items, "__iter__"):
            continue
        found = examples_in(*items)
        if found:
            return found
    return 0
