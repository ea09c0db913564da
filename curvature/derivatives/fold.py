"""A network's convolutions and softmax replaced, for a call, by ones that differentiate faster.

BatchNorm in evaluation mode is folded into the convolution before it, as a function of the
parameters, so that the derivatives by its scale and shift stay right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from curvature.derivatives.attention import OwnAttention
from curvature.derivatives.awaited import Awaited, OtherOrderError
from curvature.derivatives.convolution import convolution
from curvature.derivatives.piecewise import PiecewiseLinear

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_SOFTMAX = (torch.ops.aten._softmax.default, torch.ops.aten._safe_softmax.default)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Folding:
    """Convolutions, each with the BatchNorm that alone uses its output, if there is one.

    ``softmax``: whether there is one, which is replaced, too.
    """

    pairs: tuple[tuple[nn.Module, nn.Module | None], ...]
    softmax: bool = False

    @property
    def folded(self) -> int:
        """How many BatchNorms are folded."""
        return sum(norm is not None for _, norm in self.pairs)

    @contextmanager
    def applied(self, *, apart: bool = False) -> Iterator[None]:
        """The modules replaced in the length of a ``with``, and what is piecewise linear.

        ``apart`` is the convolutions'; softmax is then left as it is.
        """
        with ExitStack() as stack:
            if self.pairs:
                stack.enter_context(PiecewiseLinear())
            if self.softmax and not apart:
                stack.enter_context(OwnAttention())
            for conv, norm in self.pairs:
                call = _Folded(conv, norm, apart)
                stack.enter_context(_forward_replaced(conv, call.convolution))
                if norm is not None:
                    stack.enter_context(_forward_replaced(norm, call.identity))
            yield


NOTHING = Folding(())


def recorded(model: nn.Module, call: Callable[[], object]) -> Folding:
    """What can be replaced, seen from one ``call`` of the model in the mode that it is in.

    A BatchNorm is folded where it alone reads the convolution's output: another use may have a
    weight of 0 now, and yet a derivative by it.
    """
    outputs: dict[int, tuple[nn.Module, Tensor]] = {}
    norms: dict[nn.Module, nn.Module] = {}  # BatchNorm → the convolution before it
    calls: dict[nn.Module, int] = {}
    reads = _Reads()
    before: dict[nn.Module, int] = {}  # BatchNorm → reads of its input as it was called
    own: dict[nn.Module, int] = {}  # and its own

    def enter(module: nn.Module, args: Any) -> None:
        if args and id(args[0]) in outputs:
            before[module] = reads.of(args[0])

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, _CONVOLUTIONS):
            outputs[id(output)] = module, output  # held, so that no other takes its id
            reads.watch(output)
        elif args and id(args[0]) in outputs:
            norms[module] = outputs[id(args[0])][0]
            own[module] = reads.of(args[0]) - before[module]

    with ExitStack() as stack, torch.no_grad(), reads:
        for module in model.modules():
            if _replaceable(module):
                stack.callback(module.register_forward_pre_hook(enter).remove)
                stack.callback(module.register_forward_hook(leave).remove)
        call()
    last = {module: output for module, output in outputs.values()}
    once = {
        conv: norm
        for norm, conv in norms.items()
        if calls[norm] == calls[conv] == 1 and reads.of(last[conv]) == own[norm]
    }
    found = [module for module in calls if isinstance(module, _CONVOLUTIONS)]
    return Folding(tuple((conv, once.get(conv)) for conv in found), reads.softmax)


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that take watched tensors, or views of them.

    ``softmax``: whether there was one.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.softmax = False
        self._counts: dict[int, int] = {}

    def watch(self, t: Tensor) -> None:
        """From now on; ``t`` must outlive this."""
        self._counts[_memory(t)] = 0

    def of(self, t: Tensor) -> int:
        """So far."""
        return self._counts[_memory(t)]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # which would import it all: seconds, and 36 MB

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.softmax |= func in _SOFTMAX
        taken = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        for key in {_memory(t) for t in taken} & self._counts.keys():
            self._counts[key] += 1
        return func(*args, **(kwargs or {}))


def _memory(t: Tensor) -> int:
    """What a tensor and its views share; 0 where that isn't known, as inside of vmap."""
    try:
        found: int = t.untyped_storage()._cdata
    except NotImplementedError:
        return 0
    return found


def common(foldings: Iterable[Folding]) -> Folding:
    """All convolutions, and softmax, of any of them; folded are those that are so in all calls."""
    chosen: dict[nn.Module, nn.Module | None] = {}
    softmax = False
    for folding in foldings:
        softmax |= folding.softmax
        for conv, norm in folding.pairs:
            chosen[conv] = norm if chosen.get(conv, norm) is norm else None
    claims = Counter(chosen.values())  # a BatchNorm may follow several
    once = {conv: norm if claims[norm] == 1 else None for conv, norm in chosen.items()}
    return Folding(tuple(once.items()), softmax)


def has_convolutions(model: nn.Module) -> bool:
    """Whether anything may be replaced at all."""
    return any(type(m) in _CONVOLUTIONS and _replaceable(m) for m in model.modules())


def _replaceable(module: nn.Module) -> bool:
    """Plain modules only: neither hooks nor another forward of theirs would be seen."""
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        return False
    if module._backward_hooks or module._backward_pre_hooks:
        return False
    if type(module) in _CONVOLUTIONS:
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    if type(module) in _BATCH_NORMS:
        return not module.training and module.running_mean is not None
    return False


class _Folded:
    """One convolution and its BatchNorm as one convolution and nothing."""

    def __init__(self, conv: Any, norm: Any, apart: bool) -> None:
        self._conv, self._norm, self._apart = conv, norm, apart

    def convolution(self, x: Tensor) -> Tensor:
        conv = self._conv
        weight, bias = conv.weight, conv.bias
        scale = None
        if self._norm is not None:
            scale, bias = _folded(bias, self._norm)
        single = x.ndim < weight.ndim  # example without a batch
        geometry = conv.stride, conv.padding, conv.dilation, conv.groups
        inputs = x[None] if single else x
        y = convolution(inputs, weight, bias, *geometry, scale=scale, apart=self._apart)
        y = y[0] if single else y
        return y if self._norm is None else Awaited.of(y, self)

    def identity(self, x: Tensor) -> Tensor:
        if not isinstance(x, Awaited) or x.call is not self:
            raise OtherOrderError(
                "A BatchNorm no longer follows the convolution it followed before."
            )
        return x.value


def _folded(bias: Tensor | None, norm: Any) -> tuple[Tensor, Tensor]:
    """What the convolution's weight is multiplied by, per channel, and its bias."""
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean if bias is None else bias - norm.running_mean
    shift = shift * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    return scale, shift


@contextmanager
def _forward_replaced(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    module.forward = forward
    try:
        yield
    finally:
        del module.__dict__["forward"]
