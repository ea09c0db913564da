"""SA-SGD and SA-SAM: SGD and SAM with smoothness-adaptive η and ρ (Naganuma et al.)."""

import math
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.amp import GradScaler

from curvature.optimizers import ranks, vectors
from curvature.optimizers.smoothness import (
    FORMULAS,
    Formula,
    StepSize,
    first_step_size,
    next_step_size,
)
from curvature.optimizers.step import ClosureOptimizer, Params, Perturbation

Variant = Literal["poster", "released"]
Gradient = dict[Tensor, Tensor]  # by parameter; those without a gradient are left out


class SASGD(ClosureOptimizer):
    """w ← w − η_t (g_t + λ w_t), with η_t from ``next_step_size``; ``lr`` is η_0. Two gradients.

    Δw = w_t − w_{t−1} and Δg = ∇L(w_t; ξ_t) − ∇L(w_{t−1}; ξ_t), without weight decay, run over
    all groups together. ``constants`` are fields of ``Formula`` to replace in the ``variant``'s.
    """

    _own = (*ClosureOptimizer._own, "formula")

    def __init__(
        self,
        params: Params,
        lr: float,
        *,
        weight_decay: float = 0.0,
        variant: Variant = "poster",
        clip_norm: float | None = None,
        grad_scaler: GradScaler | None = None,
        perturbation: Perturbation = "global",
        process_group: "dist.ProcessGroup | None" = None,
        **constants: Any,
    ) -> None:
        self.formula = _formula(variant, constants)
        if not 0 < lr < math.inf:
            raise ValueError(f"`lr` is the first step size η₀ and must be positive, got {lr}.")
        if not weight_decay >= 0:
            raise ValueError(f"`weight_decay` must not be negative, got {weight_decay}.")
        super().__init__(
            params,
            {"lr": float(lr), "weight_decay": weight_decay, "eta": None, "theta": None, "t": 0},
            clip_norm=clip_norm,
            grad_scaler=grad_scaler,
            perturbation=perturbation,
            process_group=process_group,
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; where one η serves all, it takes the present one and can't have another."""
        if self.param_groups and not self.formula.per_group:
            present = self.param_groups[0]
            default = self.defaults["lr"] if present["eta"] is None else present["lr"]
            wanted = param_group.get("lr", default)
            if wanted != present["lr"]:
                raise ValueError(
                    f"A parameter group has `lr` {wanted}, the first one {present['lr']}: one step "
                    "size adapts for all parameters. Give all the same `lr`, or `per_group=True` "
                    "(as `variant='released'` does)."
                )
            param_group.update({key: present[key] for key in ("lr", "eta", "theta", "t")})
        super().add_param_group(param_group)

    def _step(self, closure: Any) -> Any:
        if closure is None:
            raise ValueError(
                f"{type(self).__name__} needs the gradient at several points: call `step(closure)` "
                "with a closure that computes the loss of the mini-batch, calls backward and "
                "returns it."
            )
        self._refuse_changed_lr()
        loss = self._call(closure)
        local = self._gradient() if self.perturbation == "local" else None
        norm = self._settle()
        self._require_finite(loss, norm, 1)
        g = self._gradient()
        distances = self._distances(closure, g)
        sizes = self._step_sizes(distances)
        passes = 1 if distances is None else 2
        descent, passes = self._descent(closure, g, local or g, sizes, passes)
        self._commit(descent, sizes)
        first = sizes[0]
        self._record(norm, passes, active=first.active, theta=first.theta, rho=self._radius(first))
        return loss

    def _refuse_changed_lr(self) -> None:
        for group in self.param_groups:
            if group["eta"] is not None and group["lr"] != group["eta"]:
                raise ValueError(
                    f"`lr` was changed from {group['eta']} to {group['lr']} between two steps, by "
                    f"a learning-rate scheduler perhaps: {type(self).__name__} adapts its step "
                    "size itself. Remove the scheduler; `lr` at construction is η₀."
                )

    def _gradient(self) -> Gradient:
        """A copy in float32 at least: the next pass may write into the same memory."""
        return {p: vectors.widened(p.grad) for p in self._weights() if p.grad is not None}

    def _distances(self, closure: Any, g: Gradient) -> list[tuple[float, float]] | None:
        """‖Δw‖ and ‖Δg‖ of each block that has its own η; None while there is no w_{t−1}."""
        weights = self._weights()
        previous: Gradient = {
            p: self.state[p]["previous"] for p in weights if "previous" in self.state.get(p, {})
        }
        if not previous:
            return None
        with vectors.restored(weights):
            torch._foreach_copy_(list(previous), list(previous.values()))
            loss = self._call(closure)
            norm = self._settle()
        self._require_finite(loss, norm, 2)
        before = {p: p.grad for p in weights if p.grad is not None}
        found: list[Tensor] = []
        for block in self._blocks():
            present = {p: vectors.widened(p) for p in block if p in previous}
            found.append(vectors.norm(_differences(block, present, previous)).to(norm.device))
            found.append(vectors.norm(_differences(block, g, before)).to(norm.device))
        values = ranks.agreed(torch.stack(found), self.process_group).tolist()
        return list(zip(values[::2], values[1::2], strict=True))

    def _blocks(self) -> list[list[Tensor]]:
        if not self.formula.per_group:
            return [self._weights()]
        return [[p for p in group["params"] if p.requires_grad] for group in self.param_groups]

    def _step_sizes(self, distances: list[tuple[float, float]] | None) -> list[StepSize]:
        """η_t and θ_t of each parameter group."""
        sizes = []
        for i, group in enumerate(self.param_groups):
            if group["eta"] is None or distances is None:
                sizes.append(first_step_size(group["lr"], self.formula))
                continue
            if not any(p.requires_grad for p in group["params"]) and self.formula.per_group:
                sizes.append(StepSize(group["eta"], group["eta"], group["theta"], "kept"))
                continue
            distance, difference = distances[i if self.formula.per_group else 0]
            sizes.append(
                next_step_size(group["eta"], group["theta"], distance, difference, self.formula)
            )
        return sizes

    def _radius(self, size: StepSize) -> float | None:
        return None

    def _descent(
        self, closure: Any, g: Gradient, ascent: Gradient, sizes: list[StepSize], passes: int
    ) -> tuple[Gradient, int]:
        """The gradient that descends, and how many were computed in this step."""
        for p in self._weights():  # where a logger looks for the gradient at w_t
            p.grad = g[p].to(p.dtype) if p in g else None
        return g, passes

    def _commit(self, descent: Gradient, sizes: list[StepSize]) -> None:
        """w_{t−1} ← w_t, w ← w − η (descent + λ w_t), and η, θ, t: all at the end of the step."""
        for group, size in zip(self.param_groups, sizes, strict=True):
            for p in group["params"]:
                if p.requires_grad:
                    self.state[p]["previous"] = vectors.widened(p)
                else:  # it may be thawed later, when this would no longer be w_{t−1}
                    self.state.pop(p, None)
            moved = [p for p in group["params"] if p.requires_grad and p in descent]
            if moved:
                steps = [descent[p] for p in moved]
                if group["weight_decay"]:
                    steps = list(torch._foreach_add(steps, moved, alpha=group["weight_decay"]))
                torch._foreach_add_(moved, steps, alpha=-size.eta)
            group["lr"] = group["eta"] = size.eta
            group["theta"] = size.theta
            group["t"] += 1


class SASAM(SASGD):
    """w ← w − η_t (∇L(w_t + ρ_t g_t/‖g_t‖₂; ξ_t) + λ w_t) with ρ_t = √η_t. Three gradients.

    η_t as in SA-SGD. ``perturbation="local"``: each rank climbs its own gradient (m-sharpness).
    """

    def _radius(self, size: StepSize) -> float | None:
        return math.sqrt(size.previous if self.formula.rho_lag else size.eta)

    def _descent(
        self, closure: Any, g: Gradient, ascent: Gradient, sizes: list[StepSize], passes: int
    ) -> tuple[Gradient, int]:
        weights = self._weights()
        length = vectors.norm(list(ascent.values()))
        with vectors.restored(weights):
            for group, size in zip(self.param_groups, sizes, strict=True):
                climbing = [p for p in group["params"] if p in ascent]
                if climbing:
                    steps = [ascent[p] for p in climbing]
                    vectors.scale_(steps, self._scale(size, length))
                    torch._foreach_add_(climbing, steps)
            loss = self._call(closure)
            norm = self._settle()
        self._require_finite(loss, norm, passes + 1)
        return {p: p.grad for p in weights if p.grad is not None}, passes + 1

    def _scale(self, size: StepSize, length: Tensor) -> Tensor:
        """ρ_t / ‖g_t‖, and 0 where the gradient is zero."""
        radius = self._radius(size)
        assert radius is not None
        scale = radius / (length + self.formula.epsilon)
        return torch.where(length > 0, scale, torch.zeros_like(length))


def _formula(variant: str, constants: dict[str, Any]) -> Formula:
    if variant not in FORMULAS:
        raise ValueError(f"`variant` is {' or '.join(FORMULAS)}, got {variant!r}.")
    known = [field.name for field in fields(Formula)]
    for name in constants:
        if name not in known:
            raise TypeError(
                f"SA-SGD and SA-SAM take no `{name}`; their formulas have {', '.join(known)}."
            )
    return replace(FORMULAS[variant], **{k: v for k, v in constants.items() if v is not None})


def _differences(block: Iterable[Tensor], a: Gradient, b: Gradient) -> list[Tensor]:
    """A − b by parameter; whatever only one of them has counts as zero in the other."""
    both = [p for p in block if p in a and p in b]
    alone = [a.get(p, b.get(p)) for p in block if (p in a) != (p in b)]
    parts = list(torch._foreach_sub([a[p] for p in both], [b[p] for p in both])) if both else []
    return parts + [part for part in alone if part is not None]
