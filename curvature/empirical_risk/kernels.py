"""What PyTorch has no second derivative of, or a wrong one, replaced for the length of a call."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Plain code in place of fused attention, compiled or checkpointed parts and weight_norm."""
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(_attention_fast_path_off())
        stack.enter_context(_reentrant_checkpoints_off())
        stack.enter_context(_own_autocast_off())
        stack.enter_context(_weight_norm_in_parts())
        stack.enter_context(_dense_embeddings(model))
        if "torch._dynamo" in sys.modules:  # whatever is compiled has imported it
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if torch.cuda.is_available() and any(isinstance(m, nn.RNNBase) for m in model.modules()):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


_ATTENTION = (
    nn.functional.scaled_dot_product_attention,
    nn.functional.multi_head_attention_forward,
)


class FusedCalls(TorchFunctionMode):
    """Within a ``with``: whether attention was asked for that PyTorch would compute fused."""

    attention = False

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Look at the call, and make it."""
        if function in _ATTENTION:
            self.attention = True
        return function(*args, **(kwargs or {}))


@contextmanager
def _reentrant_checkpoints_off() -> Iterator[None]:
    """Reentrant checkpoints run plainly: without their graph, parameters would count as zeros."""

    class Plain:
        @staticmethod
        def apply(function: Any, preserve_rng_state: bool, *args: Any) -> Any:
            return function(*args)

    with _replaced(checkpoint, "CheckpointFunction", Plain):
        yield


@contextmanager
def _own_autocast_off() -> Iterator[None]:
    """An autocast inside ``forward`` would round every product to half precision."""
    with (
        _replaced(torch.autocast, "__enter__", lambda self: self),
        _replaced(torch.autocast, "__exit__", lambda self, *error: None),
    ):
        yield


@contextmanager
def _dense_embeddings(model: nn.Module) -> Iterator[None]:
    """Sparse gradients have no second derivative."""
    sparse = [
        module
        for module in model.modules()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.sparse
    ]
    for module in sparse:
        module.sparse = False
    try:
        yield
    finally:
        for module in sparse:
            module.sparse = True


@contextmanager
def _attention_fast_path_off() -> Iterator[None]:
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


@contextmanager
def _weight_norm_in_parts() -> Iterator[None]:
    """The fused one has a second derivative that is wrong, and not symmetric (PyTorch 2.13)."""

    def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
        return v * (g / torch.norm_except_dim(v, 2, dim))

    with ExitStack() as stack:
        for module in (torch, sys.modules["torch.nn.utils.weight_norm"]):
            stack.enter_context(_replaced(module, "_weight_norm", weight_norm))
        yield


@contextmanager
def _replaced(module: ModuleType | type, name: str, by: Any) -> Iterator[None]:
    was = getattr(module, name)
    setattr(module, name, by)
    try:
        yield
    finally:
        setattr(module, name, was)
