"""Anyone's model as the analysis takes it: unwrapped, in a usable dtype, its parameters chosen."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

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
    def dtype(self) -> torch.dtype:
        """The widest dtype among the parameters chosen."""
        dtypes = [p.dtype for p in self.params.values()]
        widest = dtypes[0]
        for dtype in dtypes[1:]:
            widest = torch.promote_types(widest, dtype)
        return widest


def subject(model: nn.Module, patterns: Sequence[str], dtype: torch.dtype | None) -> Subject:
    """Take wrappers off, widen half precision to float32, choose parameters by ``patterns``.

    The caller's model is left as it is: another dtype is given to a copy.
    """
    model, notes = unwrapped(model)
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    low = sorted(str(d).removeprefix("torch.") for d in dtypes if d.itemsize < 4)
    if dtype is None and low:
        dtype = torch.float32
        notes += (f"{', '.join(low)} weights are analysed in float32",)
    if dtype is not None and dtypes != {dtype}:
        _refuse_lazy(model)
        model = copy.deepcopy(model).to(dtype)
    _refuse_lazy(model)
    named = dict(model.named_parameters())
    params = {
        name: p
        for name, p in named.items()
        if p.requires_grad
        and (not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))
    }
    if not params:
        what = f"matches {', '.join(patterns)}" if patterns else "requires a gradient"
        raise ValueError(
            f"No parameter {what}. The model has {', '.join(list(named)[:8]) or 'none'}"
            f"{', …' if len(named) > 8 else ''}."
        )
    return Subject(model, params, notes)


def _refuse_lazy(model: nn.Module) -> None:
    for name, p in model.named_parameters():
        if isinstance(p, nn.parameter.UninitializedParameter):
            raise ValueError(
                f"`{name}` is lazily initialised and has no shape yet: call the model on one "
                "batch first."
            )
