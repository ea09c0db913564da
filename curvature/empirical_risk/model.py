"""Anyone's model as the analysis takes it: unwrapped, in a usable dtype, its parameters chosen."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import nn

from curvature.empirical_risk.evaluation import unwrapped


@dataclass(frozen=True)
class Subject:
    """The module that is differentiated, by which parameters, and what was done to get there."""

    model: nn.Module
    params: dict[str, nn.Parameter]
    notes: tuple[str, ...]

    @property
    def layout(self) -> dict[str, slice]:
        """Where each parameter lies in the flat vector of all."""
        ends = accumulate(p.numel() for p in self.params.values())
        return {
            name: slice(end - p.numel(), end)
            for end, (name, p) in zip(ends, self.params.items(), strict=True)
        }

    @property
    def dtype(self) -> torch.dtype:
        """The one dtype of all parameters."""
        return next(iter(self.params.values())).dtype


def subject(model: nn.Module, patterns: Sequence[str] | str, dtype: torch.dtype | None) -> Subject:
    """Take wrappers off, widen half precision to float32, choose parameters by ``patterns``.

    The caller's model is left as it is: another dtype is given to a copy.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}.")
    if dtype not in (None, torch.float32, torch.float64):
        raise ValueError(f"`dtype` must be torch.float32 or torch.float64, got {dtype}.")
    model, notes = unwrapped(model)
    _refuse_unusable(model)
    dtypes = {p.dtype for p in model.parameters()}
    if dtype is None and (len(dtypes) > 1 or any(d.itemsize < 4 for d in dtypes)):
        dtype = torch.float64 if torch.float64 in dtypes else torch.float32
        which = ", ".join(sorted(str(d).removeprefix("torch.") for d in dtypes))
        notes += (f"{which} weights are analysed in {str(dtype).removeprefix('torch.')}",)
    if dtype is not None and dtypes != {dtype}:
        model = copy_of(model).to(dtype)
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    return Subject(model, _chosen(model, patterns), notes)


def _refuse_unusable(model: nn.Module) -> None:
    for name, p in model.named_parameters():
        if isinstance(p, nn.parameter.UninitializedParameter):
            raise ValueError(
                f"`{name}` is lazily initialised and has no shape yet: call the model on one "
                "batch first."
            )
        if p.is_complex():
            raise ValueError(
                f"`{name}` is complex ({p.dtype}), and the Hessian is of a function of real "
                "parameters. Hold its real and imaginary parts as two parameters."
            )


def copy_of(model: nn.Module) -> nn.Module:
    """A deep copy, also of a model with the older weight_norm, whose `weight` is no leaf."""
    derived = {
        id(value): value.detach()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    }
    return copy.deepcopy(model, derived)


def _chosen(model: nn.Module, patterns: tuple[str, ...]) -> dict[str, nn.Parameter]:
    named = dict(model.named_parameters())
    chosen: set[str] = set() if patterns else set(named)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(
                f"`params` takes names or patterns of names such as 'layer3.*', got a "
                f"{type(pattern).__name__}. `model.named_parameters()` tells the names."
            )
        found = fnmatch.filter(named, pattern) if pattern not in named else [pattern]
        if not found:
            inside = fnmatch.filter(named, f"{pattern}.*")
            hint = f" Did you mean `{pattern}.*`?" if inside else ""
            raise ValueError(
                f"No parameter matches `{pattern}`.{hint} The model has {_some(named)}."
            )
        chosen |= set(found)
    trainable = {name: p for name, p in named.items() if name in chosen and p.requires_grad}
    if not trainable:
        what = f"that matches {', '.join(patterns)} " if patterns else ""
        raise ValueError(
            f"No parameter {what}requires a gradient (frozen?). The model has {_some(named)}."
        )
    return trainable


def _some(named: Iterable[str]) -> str:
    first = list(named)
    return f"{', '.join(first[:8]) or 'none'}{', …' if len(first) > 8 else ''}"
