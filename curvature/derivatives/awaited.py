"""A stand-in for a tensor that one module alone may read."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class OtherOrderError(RuntimeError):
    """Modules were called in another order than when they were recorded."""


class Awaited(Tensor):
    """What a folded convolution gives: nothing but its BatchNorm, which gets ``value``, reads it.

    A branch that was not taken when the modules were recorded might: it would get other numbers.
    """

    value: Tensor
    call: object

    @classmethod
    def of(cls, value: Tensor, call: object) -> Awaited:
        """In the place of ``value``, of one ``call``."""
        blank = torch.full((), math.nan, dtype=value.dtype, device=value.device)
        y = blank.expand(value.shape).as_subclass(cls)
        y.value, y.call = value, call
        return y

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        y = args[0] if args else None
        if isinstance(y, Awaited) and (func in _NOT_ITS_NUMBERS or func in _MAYBE_NOTHING):
            found = func(y.value, *args[1:], **kwargs or {})
            if func in _NOT_ITS_NUMBERS:
                return found
            if found is y.value:
                return y
        raise OtherOrderError(
            "A convolution's output is read by something that didn't read it before."
        )


_ATTRIBUTES = """
    shape dtype device ndim layout requires_grad is_leaf grad_fn itemsize nbytes
    is_cpu is_cuda is_mps is_sparse is_quantized
"""
_METHODS = """
    size dim ndimension numel nelement element_size stride storage_offset is_contiguous get_device
    is_floating_point is_complex __len__
"""
_NOT_ITS_NUMBERS = {
    *(getattr(Tensor, name).__get__ for name in _ATTRIBUTES.split()),
    *(getattr(Tensor, name) for name in _METHODS.split()),
    *(torch.numel, torch.is_floating_point, torch.is_complex),
}
_MAYBE_NOTHING = {  # give the tensor itself where there is nothing to do
    *(Tensor.contiguous, Tensor.to, Tensor.type_as, Tensor.float, Tensor.double, Tensor.half),
    *(Tensor.bfloat16, Tensor.cpu, Tensor.cuda),
    *(nn.functional.dropout, nn.functional.dropout2d, nn.functional.dropout3d, torch.dropout),
}
