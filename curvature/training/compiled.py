"""The network compiled for its steps (`torch.compile`); saved and measured is the plain one."""

import functools
import warnings
from typing import Any, cast

import torch
from torch import Tensor, nn


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """``model`` compiled, with the same parameters, buffers and random numbers.

    A kernel for each batch size, so that the digits don't depend on which sizes came before.

    Raises:
        ValueError: where nothing can be compiled, for lack of a C++ compiler say.
    """
    _require_compiler(device.type)
    torch.compiler.reset()  # of many runs in a process, those beyond a limit stay uncompiled
    options: dict[str, Any] = {"fallback_random": True}  # the draws of the uncompiled network
    return cast(nn.Module, torch.compile(model, dynamic=False, options=options))


@functools.cache
def _require_compiler(device: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, on importing it
            torch.compile(_smallest, dynamic=False)(torch.ones(1, device=device))
    except RuntimeError as error:
        why = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"`compile` does not work here: {why}. Install a C++ compiler (g++; on a GPU, Triton), "
            "or train without it (--no-compile): the numbers are the same but for rounding."
        ) from None


def _smallest(x: Tensor) -> Tensor:
    return x + 1
