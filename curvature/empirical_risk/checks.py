"""Cheap checks, on a few examples, of what would make curvature silently wrong."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from curvature.empirical_risk.batches import part_of
from curvature.empirical_risk.evaluation import call_model
from curvature.losses import examples_in


def check_repeatable(model: nn.Module, part: Any) -> None:
    """Refuse a model that gives other outputs for the same inputs, naming the module.

    A pass is a few examples through the network twice.
    """
    seen: list[list[tuple[str, Tensor, Tensor]]] = []
    with torch.no_grad():
        for _ in range(2):
            calls: list[tuple[str, Tensor, Tensor]] = []
            hooks = [
                module.register_forward_hook(_recorder(name, calls))
                for name, module in model.named_modules()
            ]
            try:
                outputs = call_model(model, part[0])
            finally:
                for hook in hooks:
                    hook.remove()
            calls.append(("the model", outputs, outputs))
            seen.append(calls)
    if _close(seen[0][-1][2], seen[1][-1][2]):
        return
    culprit = next(
        (
            name
            for (name, x, y), (_, x_again, y_again) in zip(*seen, strict=False)
            if _close(x, x_again) and not _close(y, y_again)
        ),
        "the model",
    )
    kind = type(dict(model.named_modules()).get(culprit, model)).__name__
    raise ValueError(
        f"The model gives different outputs for the same inputs: `{culprit or 'the model'}` "
        f"({kind}) draws random numbers (dropout in training mode, F.dropout without "
        "`training=self.training`, noise), so each product would belong to another function. "
        "Switch it off."
    )


def check_independent(model: nn.Module, part: Any) -> None:
    """Refuse a model in which an example's outputs depend on the other examples of its batch."""
    n = examples_in(part)
    if n < 2:
        return
    with torch.no_grad():
        together = call_model(model, part[0])
        alone = call_model(model, part_of(part[0], 0, (n + 1) // 2, n))
    if together.ndim == 0 or len(together) != n or _close(together[: len(alone)], alone, 1e-2):
        return
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and (module.training or module.running_mean is None)
    ]
    where = f"BatchNorm uses the batch's own statistics in {', '.join(names[:3])}" if names else ""
    raise ValueError(
        f"{where or 'The outputs of an example depend on the other examples of its batch'}: "
        "the batches' Hessians would belong to different functions. Call `model.eval()` with "
        "running statistics, or pass all examples as a single batch."
    )


def _recorder(name: str, calls: list[tuple[str, Tensor, Tensor]]) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            calls.append((name, args[0].clone(), output.clone()))

    return hook


def _close(x: Tensor, y: Tensor, rtol: float = 1e-3) -> bool:
    """Equal but for rounding, relative to the largest entry; NaN equals NaN."""
    if x.shape != y.shape:
        return False
    if torch.equal(x, y):
        return True
    x, y = x.double(), y.double()
    scale = float(torch.nan_to_num(x).abs().max()) if x.numel() else 0.0
    return torch.allclose(x, y, rtol=0.0, atol=rtol * scale, equal_nan=True)
