"""The state in which derivatives are taken, set for the length of a call and then restored."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from curvature.empirical_risk.kernels import twice_differentiable


@contextmanager
def evaluating(model: nn.Module, *, training: bool = False, tf32: bool = False) -> Iterator[None]:
    """Evaluation mode, gradients on, kernels that have a second derivative; restores all it found.

    TF32 and autocast would round the products. With ``training`` the modules are in training mode;
    buffers are restored either way.
    """
    with ExitStack() as stack:
        stack.enter_context(random_state_kept())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(twice_differentiable(model))
        if torch.cuda.is_available():
            stack.enter_context(_tf32(tf32))
        stack.enter_context(_state_kept(model))
        model.train(training)
        yield


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


def random_state() -> tuple[Any, ...]:
    """The global random states of Python, NumPy and torch, comparable by ``==``."""
    import numpy as np

    numpy = np.random.get_state(legacy=False)
    torches = [torch.get_rng_state()]
    if torch.cuda.is_available():
        torches += torch.cuda.get_rng_state_all()
    return random.getstate(), str(numpy), [bytes(state.numpy()) for state in torches]


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
def _state_kept(model: nn.Module) -> Iterator[None]:
    """Restores training flags, buffers (replaced ones, too) and what `max_norm` rescales."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, b, b.detach().clone())
        for module in model.modules()
        for name, b in module.named_buffers(recurse=False)
    ]
    rescaled = [
        (module.weight, module.weight.detach().clone())
        for module in model.modules()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.max_norm is not None
    ]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for module, name, buffer, value in buffers:
            if not buffer.is_inference():
                buffer.data.copy_(value)  # unseen by a graph of the caller's that saved it
            module._buffers[name] = buffer
        for weight, value in rescaled:
            weight.data.copy_(value)


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    was = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = was
