"""What a network returns, whatever its inputs and outputs are made of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from curvature.empirical_risk.nested import floats_in, shapes_in, with_floats
from curvature.losses import Loss


def call_model(model: nn.Module, inputs: Any) -> Any:
    """What the network returns.

    A mapping goes in by keyword and a tuple in order where ``forward`` takes them so, else whole.
    """
    if isinstance(inputs, Mapping):
        if _takes(model, kwargs=inputs):
            return model(**inputs)
        return model(next(iter(inputs.values())) if len(inputs) == 1 else inputs)
    if isinstance(inputs, (tuple, list)) and _takes(model, args=inputs):
        return model(*inputs)
    return model(inputs)


def logits_of(returned: Any) -> Tensor:
    """The tensor that was returned, or the ``logits`` of an object or mapping that has them."""
    found = logits_in(returned)
    if found is not None:
        return found
    raise TypeError(
        f"The model returned {_described(returned)}, and this loss takes one tensor, or something "
        "with `logits`. Pass a function of your own, `lambda outputs, targets: …`, which gets what "
        "the model returned, or one whose first parameter is `model`, of (model, batch)."
    )


def logits_in(returned: Any) -> Tensor | None:
    """The same, None where there is no such tensor."""
    if isinstance(returned, (tuple, list)) and len(returned) == 1:
        returned = returned[0]
    if isinstance(returned, Tensor):
        return returned
    found = returned.get("logits") if isinstance(returned, Mapping) else None
    logits = getattr(returned, "logits", found)
    return logits if isinstance(logits, Tensor) else None


def as_returned(returned: Any) -> Any:
    """A tensor, or a tuple, mapping or dataclass of tensors, as it is."""
    if floats_in(returned):
        return returned
    raise TypeError(
        f"The model returned {_described(returned)}, in which no tensor is found. Let it return a "
        "tensor, tuple, dict or dataclass, or pass a loss of (model, batch)."
    )


def taken_apart(
    loss: Loss, predictions: Any, targets: Any
) -> tuple[list[Tensor], Callable[[], Tensor], list[Tensor]]:
    """The outputs' tensors, and the loss's sum as a function of leaves in their place."""
    outputs = floats_in(predictions)
    apart = [f.detach().requires_grad_() for f in outputs]
    return outputs, lambda: loss.sum(with_floats(predictions, apart), targets), apart


def _described(returned: Any) -> str:
    shapes = ", ".join(map(str, shapes_in(returned)[:4]))
    return f"a {type(returned).__name__}" + f" with tensors of shape {shapes}" * bool(shapes)


def _takes(model: nn.Module, args: Sequence[Any] = (), kwargs: Mapping[str, Any] = {}) -> bool:
    try:
        inspect.signature(model.forward).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return False
    return True
