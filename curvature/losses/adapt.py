"""Anyone's loss as a `Loss`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curvature import names
from curvature.losses.bundled import bce, cross_entropy, huber, mse, nll
from curvature.losses.loss import Loss
from curvature.losses.named import LOSSES

_FUNCTIONS: dict[Callable[..., Any], Callable[..., Loss]] = {
    F.cross_entropy: cross_entropy,
    F.mse_loss: mse,
    F.binary_cross_entropy_with_logits: bce,
    F.huber_loss: huber,
    F.nll_loss: nll,
}
NO_MEAN = "not the mean over the batch's examples"
_SAME = 1e-5  # between two values of the same batch: rounding on a GPU
_RTOL = 1e-3  # between a batch's value and its parts': far above rounding, far below a wrong weight


def as_loss(loss: Any) -> Loss:
    """Any loss as a `Loss`: a name, a torch.nn loss, or a callable of (outputs, targets).

    A callable returns one number per example, or (mean, weight) of the batch, or the mean over the
    batch's examples. ``check_reduction`` tests the last.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str):
        return as_loss(_named(loss))
    if isinstance(loss, nn.Module):
        return _twin(loss) or _from_module(loss)
    if not callable(loss):
        raise TypeError(
            f"`loss` must be a name, a module or a callable, got {type(loss).__name__}."
        )
    for function, make in _FUNCTIONS.items():
        if loss is function:
            return make()
    return _from_callable(loss, getattr(loss, "__name__", type(loss).__name__))


def whole_loss(loss: Any) -> Callable[[nn.Module, Any], Any] | None:
    """The callable that takes ``(model, batch)`` whole: its first parameter is so named.

    It may also be declared an ``nn.Module``. ``None`` for any other loss.
    """
    if isinstance(loss, str):
        loss = _named(loss)
    if isinstance(loss, (Loss, nn.Module)) or not callable(loss):
        return None
    try:
        first = next(iter(inspect.signature(loss).parameters.values()), None)
    except (TypeError, ValueError):
        return None
    found: Callable[[nn.Module, Any], Any] = loss
    return found if first is not None and _is_model(first) else None


def _is_model(parameter: inspect.Parameter) -> bool:
    declared = parameter.annotation
    if inspect.isclass(declared) and issubclass(declared, (nn.Module, Tensor)):
        return issubclass(declared, nn.Module)
    name = parameter.name.lower().strip("_")
    return name in ("m", "module", "network") or name.endswith(("model", "net"))


def check_reduction(loss: Loss, whole: tuple[Any, Any], parts: Sequence[tuple[Any, Any]]) -> None:
    """Refuse a loss whose sum over a batch is not the sum over its ``parts``.

    Each is (outputs, targets). With parts of different sizes this finds sums taken for means,
    class weights, padding and losses that compare examples, in one go.
    """
    if loss.additive:
        return
    with torch.no_grad():
        sums = [float(loss.sum(f, y)) for f, y in parts]
        value, again = (float(loss.sum(*whole)) for _ in range(2))
    if abs(value - again) > _SAME * (abs(value) + sum(map(abs, sums))):
        raise ValueError(
            f"The loss `{loss.name}` draws random numbers: it gave {value:.4g} and {again:.4g} for "
            "the same batch. Make it deterministic."
        )
    check_additive(loss.name, value, sums, [examples_in(y, f) for f, y in parts])


def check_additive(name: str, whole: float, sums: Sequence[float], sizes: Sequence[int]) -> None:
    """Refuse a ``whole`` = n · mean that is not the sum of its parts' n_i · mean_i."""
    scale = abs(whole) + sum(map(abs, sums))
    gap = abs(whole - sum(sums))
    if not gap < float("inf") or gap <= _RTOL * scale:
        return  # not finite: a divergence, reported as such where all batches are added up
    as_sum = sum(s / n for s, n in zip(sums, sizes, strict=True))
    is_sum = abs(whole / sum(sizes) - as_sum) <= _RTOL * (abs(as_sum) + scale / sum(sizes))
    raise not_additive(name, "a sum over the batch" if is_sum else NO_MEAN)


def not_additive(name: str, cause: str) -> ValueError:
    """The error that a loss of batches which can't be weighed is refused with."""
    return ValueError(
        f"The loss `{name}` returns {cause} (padding, class weights?), so batches could not be "
        "weighed. Return one number per example, or the pair (mean, weight) with the weight that "
        "the mean divides by."
    )


def _named(text: str) -> Any:
    """What a name stands for: a bundled loss, or someone's callable, class or module."""
    spec = names.parse(text, LOSSES)
    made = names.resolve(spec.name, LOSSES, "loss")
    kind = f"loss `{spec.name}`"
    if spec.name in LOSSES or inspect.isclass(made):
        return names.call(made, spec.options, kind)
    return partial(made, **names.arguments(made, spec.options, kind)) if spec.options else made


def _from_callable(function: Callable[..., Any], name: str) -> Loss:
    def value_and_weight(outputs: Any, targets: Any) -> tuple[Tensor, Any]:
        value = function(outputs, targets)
        if isinstance(value, tuple):
            mean, weight = value
            return mean, weight
        if not isinstance(value, Tensor):
            raise TypeError(f"The loss `{name}` returned a {type(value).__name__}, not a tensor.")
        n = examples_in(targets, outputs)
        if value.numel() == 1:  # (1,) is a mean over the batch as well
            return value.reshape(()), n or 1
        return value.mean(), value.numel()

    def sum_(outputs: Any, targets: Any) -> Tensor:
        mean, weight = value_and_weight(outputs, targets)
        # the mean over nothing is NaN, and NaN · 0 is not 0
        return mean * weight if float(weight) else torch.zeros_like(mean)

    def weight(outputs: Any, targets: Any) -> Tensor:
        return torch.as_tensor(value_and_weight(outputs, targets)[1]).detach()

    of_torch = (getattr(function, "__module__", "") or "").startswith("torch.")
    return Loss(name, sum_, weight, structured=not of_torch)


def _twin(module: nn.Module) -> Loss | None:
    """The bundled twin of a torch.nn loss, with its class weights, reduction and so on."""
    options: dict[str, Any] = {"reduction": _reduction(module)}
    if type(module) is nn.CrossEntropyLoss:
        return cross_entropy(
            label_smoothing=module.label_smoothing,
            ignore_index=module.ignore_index,
            class_weights=module.weight,
            **options,
        )
    if type(module) is nn.MSELoss:
        return mse(**options)
    if type(module) is nn.BCEWithLogitsLoss and module.weight is None:
        return bce(pos_weight=module.pos_weight, **options)
    if type(module) is nn.HuberLoss:
        return huber(delta=module.delta, **options)
    if type(module) is nn.NLLLoss:
        return nll(ignore_index=module.ignore_index, class_weights=module.weight, **options)
    return None


def _from_module(module: nn.Module) -> Loss:
    """Another module of (outputs, targets); a torch.nn loss with reduction="sum" stays a sum."""
    name = type(module).__name__
    if _reduction(module) == "mean" or not isinstance(module, nn.modules.loss._Loss):
        return _from_callable(module, name)

    def weight(outputs: Any, targets: Any) -> Tensor:
        return torch.tensor(examples_in(targets, outputs))

    return Loss(name, module, weight, reduction="sum", additive=True)


def _reduction(module: nn.Module) -> str:
    return "sum" if getattr(module, "reduction", "mean") == "sum" else "mean"


def examples_in(*trees: Any) -> int:
    """The leading dimension of the first tensor found in nested batches; 0 where there is none."""
    for tree in trees:
        if isinstance(tree, Tensor):
            if tree.ndim:
                return len(tree)
            continue
        items = tree.values() if hasattr(tree, "values") else tree
        if isinstance(items, (list, tuple)) or hasattr(tree, "values"):
            found = examples_in(*items)
            if found:
                return found
    return 0
