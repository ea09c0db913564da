"""The six optimizers of the study under their names, with the options that each takes."""

from collections.abc import Callable
from typing import Any

import torch
from torch.amp import GradScaler
from torch.optim import Optimizer

from curvature import names
from curvature.optimizers.adam import Adam
from curvature.optimizers.sa import SASAM, SASGD, Variant
from curvature.optimizers.sam import SAM
from curvature.optimizers.sgd import SGD
from curvature.optimizers.step import Params, Perturbation


def sgd(
    params: Params,
    lr: float,
    *,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    grad_scaler: GradScaler | None = None,
) -> SGD:
    """Gradient descent: w ← w − η (g + λw)."""
    return SGD(**locals())


def msgd(
    params: Params,
    lr: float,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = False,
    clip_norm: float | None = None,
    grad_scaler: GradScaler | None = None,
) -> SGD:
    """SGD with momentum: v ← μ v + g + λw ; w ← w − η v."""
    return SGD(**locals())


def adam(
    params: Params,
    lr: float = 1e-3,
    *,
    weight_decay: float = 0.0,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    clip_norm: float | None = None,
    grad_scaler: GradScaler | None = None,
) -> Adam:
    """Adam, with weight decay as its L2 term."""
    common: dict[str, Any] = {"clip_norm": clip_norm, "grad_scaler": grad_scaler}
    return Adam(params, lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, **common)


def sam(
    params: Params,
    lr: float,
    *,
    weight_decay: float = 0.0,
    rho: float = 0.05,
    adaptive: bool = False,
    base: str = "msgd",
    momentum: float | None = None,
    perturbation: Perturbation = "global",
    clip_norm: float | None = None,
    grad_scaler: GradScaler | None = None,
) -> SAM:
    """SAM over ``base``: sgd, msgd, adam, or another optimizer as module:class."""
    table: dict[str, Callable[..., Optimizer]] = {
        "sgd": torch.optim.SGD,
        "msgd": _momentum_sgd,
        "adam": torch.optim.Adam,
    }
    make = names.resolve(base, table, "base optimizer")
    options = {"weight_decay": weight_decay} | ({} if momentum is None else {"momentum": momentum})
    keywords = names.arguments(make, options, f"base optimizer `{base}`")
    common: dict[str, Any] = {"clip_norm": clip_norm, "grad_scaler": grad_scaler}
    return SAM(
        make(params, lr=lr, **keywords), rho, adaptive=adaptive, perturbation=perturbation, **common
    )


def sa_sgd(
    params: Params,
    lr: float,
    *,
    weight_decay: float = 0.0,
    variant: Variant = "poster",
    growth: float | None = None,
    damping: float | None = None,
    theta0: float | None = None,
    epsilon: float | None = None,
    per_group: bool | None = None,
    grow_at_zero: bool | None = None,
    clip_norm: float | None = None,
    grad_scaler: GradScaler | None = None,
) -> SASGD:
    """SGD with smoothness-adaptive η; a constant that is None is the variant's."""
    return SASGD(**locals())


def sa_sam(
    params: Params,
    lr: float,
    *,
    weight_decay: float = 0.0,
    variant: Variant = "poster",
    growth: float | None = None,
    damping: float | None = None,
    theta0: float | None = None,
    rho_lag: bool | None = None,
    epsilon: float | None = None,
    per_group: bool | None = None,
    grow_at_zero: bool | None = None,
    perturbation: Perturbation = "global",
    clip_norm: float | None = None,
    grad_scaler: GradScaler | None = None,
) -> SASAM:
    """SAM with smoothness-adaptive η and ρ; a constant that is None is the variant's."""
    return SASAM(**locals())


def _momentum_sgd(
    params: Params, lr: float, *, weight_decay: float = 0.0, momentum: float = 0.9
) -> Optimizer:
    return torch.optim.SGD(params, lr, momentum=momentum, weight_decay=weight_decay)
