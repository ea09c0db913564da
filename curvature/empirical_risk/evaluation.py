"""The state in which derivatives are taken, set for the length of a call and then restored."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def evaluating(model: nn.Module, *, training: bool = False, tf32: bool = False) -> Iterator[None]:
    """Evaluation mode, gradients on, the mathematical attention kernel; restores what it found.

    Fused attention has no double backward; TF32 and autocast would round the products. With
    ``training`` the modules keep training mode, and their buffers are restored.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(b, b.clone()) for b in model.buffers()] if training else []
    with ExitStack() as stack:
        stack.enter_context(random_state_kept())
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(_attention_fast_path_off())
        if torch.cuda.is_available():
            stack.enter_context(_tf32(tf32))
            if any(isinstance(module, nn.RNNBase) for module in model.modules()):
                # cuDNN's recurrent layers have no double backward
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        try:
            model.train(training)
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Leave the global random states of Python, NumPy and torch as they were."""
    import numpy as np

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def unwrapped(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The module inside torch.compile and data-parallel wrappers, and what was taken off."""
    notes: list[str] = []
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(inner, nn.Module):
            notes.append("torch.compile taken off: it has no double backward")
            model = inner
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            notes.append(f"{type(model).__name__} taken off")
            model = model.module
        else:
            return model, tuple(notes)


@contextmanager
def _attention_fast_path_off() -> Iterator[None]:
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    was = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = was


def call_model(model: nn.Module, inputs: Any) -> Tensor:
    """The network's outputs: dict inputs by keyword, tuples in order; ``.logits`` of an object."""
    if isinstance(inputs, Mapping):
        outputs = model(**inputs)
    elif isinstance(inputs, (tuple, list)):
        outputs = model(*inputs)
    else:
        outputs = model(inputs)
    if not isinstance(outputs, Tensor) and isinstance(getattr(outputs, "logits", None), Tensor):
        outputs = outputs.logits
    if not isinstance(outputs, Tensor):
        raise TypeError(
            f"The model returned a {type(outputs).__name__}, not a tensor. Pass a loss that takes "
            "`(model, batch)` and picks what it needs."
        )
    return outputs
