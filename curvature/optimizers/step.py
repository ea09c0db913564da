"""What every optimizer here does with a closure: passes, loss scale, clipping, a report a step."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from curvature.optimizers import ranks, vectors

Params = Iterable[Any]
Perturbation = Literal["global", "local"]


@dataclass(frozen=True)
class StepReport:
    """One step: its η, θ and ρ (of the first group), ‖∇L(w_t)‖ before clipping, its cost.

    ``active`` says what set η: ``fixed``, ``first``, ``smoothness``, ``growth``, ``kept`` (no
    information in a zero difference), or ``skipped``: a loss scale overflowed, no step was taken.
    """

    eta: float
    theta: float | None
    rho: float | None
    gradient_norm: float
    active: str
    gradients: int


class NonFiniteGradientError(FloatingPointError):
    """A loss or gradient that is infinite or not a number; the weights are as before the step."""

    def __init__(self, message: str, norm: Tensor, passes: int) -> None:
        super().__init__(message)
        self.norm = norm
        self.passes = passes


class ClosureOptimizer(Optimizer):
    """An optimizer whose ``step(closure)`` may evaluate the closure at several points.

    A closure computes the loss of the mini-batch, calls ``backward`` and returns the loss. It is
    called at w_t first; gradients are cleared before each call. With ``grad_scaler`` it calls
    ``grad_scaler.scale(loss).backward()``, and the rest – unscaling each pass, skipping the
    step when one overflows, ``update`` – is done here. ``clip_norm`` clips each pass's gradient.
    """

    _own: tuple[str, ...] = (
        "clip_norm",
        "grad_scaler",
        "check_finite",
        "perturbation",
        "process_group",
    )

    def __init__(
        self,
        params: Any,
        defaults: dict[str, Any],
        *,
        clip_norm: float | None = None,
        grad_scaler: GradScaler | None = None,
        check_finite: bool = True,
        perturbation: Perturbation = "global",
        process_group: "dist.ProcessGroup | None" = None,
    ) -> None:
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"`clip_norm` must be positive, got {clip_norm}.")
        if perturbation not in ("global", "local"):
            raise ValueError(f"`perturbation` is global or local, got {perturbation!r}.")
        super().__init__(params, defaults)
        self.clip_norm = clip_norm
        self.grad_scaler = grad_scaler if grad_scaler and grad_scaler.is_enabled() else None
        self.check_finite = check_finite or self.grad_scaler is not None
        self.perturbation = perturbation
        self.process_group = process_group
        self._report: dict[str, Any] | None = None
        self._first_loss: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles take along; torch's own leaves out what a subclass adds."""
        own = {name: getattr(self, name) for name in (*self._own, "_report", "_first_loss")}
        return {**super().__getstate__(), **own}

    @property
    def last_step(self) -> StepReport | None:
        """The last step's report; asking for it is what waits for the device."""
        if self._report is None:
            return None
        norm = float(self._report["gradient_norm"])
        return StepReport(**{**self._report, "gradient_norm": norm})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step and return the loss at w_t.

        Raises:
            FloatingPointError: for a loss or gradient that isn't finite, unless a ``grad_scaler``
                is to deal with it. Weights and state are then as before the step, bitwise.
        """
        self._begin(closure)
        try:
            loss = self._step(closure)
        except NonFiniteGradientError as error:
            if self.grad_scaler is None:
                raise
            self._update_loss_scale(overflow=True)
            self._record(error.norm, error.passes, active="skipped")
            return self._first_loss
        self._update_loss_scale(overflow=False)
        return loss

    def _step(self, closure: Any) -> Any:
        raise TypeError(f"{type(self).__name__} is not an optimizer by itself.")

    def _begin(self, closure: Any) -> None:
        """Tell a closure of ours that a step begins, and check that it and we agree."""
        self._first_loss = None
        start = getattr(closure, "start_step", None)
        if start is None:
            return
        start()
        if closure.grad_scaler is not self.grad_scaler:
            raise ValueError(
                "The closure and the optimizer have different `grad_scaler`s: one would scale the "
                "loss and the other not unscale the gradient. Pass the same to both."
            )
        averages, local = closure.average, self.perturbation == "local"
        if averages == local and ranks.world_size(self.process_group) > 1:
            raise ValueError(
                f"`perturbation={self.perturbation!r}` with `average={averages}` of the closure: "
                "gradients must be averaged over the ranks once, by the closure for global and by "
                "the optimizer for local perturbations. Pass "
                f"`average={not local}` to the closure."
            )

    def _weights(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    def _call(self, closure: Any) -> Any:
        """Evaluate the closure at the present weights; leaves unscaled gradients in ``.grad``."""
        weights = self._weights()
        for p in weights:
            p.grad = None
        torch.clear_autocast_cache()  # any autocast around us would keep the casts of w_t
        with torch.enable_grad():
            loss = closure()
        self._unscale(weights)
        loss = loss.detach() if isinstance(loss, Tensor) else loss
        self._first_loss = loss if self._first_loss is None else self._first_loss
        return loss

    def _unscale(self, weights: list[Tensor]) -> None:
        if self.grad_scaler is None:
            return
        found = vectors.gradients(weights)
        if any(g.dtype == torch.float16 for g in found):
            raise ValueError(
                "Gradients in float16 with a `grad_scaler`: unscaled, the small ones vanish. Keep "
                "the weights in float32 and let autocast choose the precision of each operation."
            )
        for device in {g.device for g in found}:  # `scale` of 1 is the scale, without a sync
            one = torch.ones((), device=device)
            inverse = self.grad_scaler.scale(one).double().reciprocal()
            vectors.scale_([g for g in found if g.device == device], inverse)

    def _settle(self) -> Tensor:
        """Average ``.grad`` if that is for us to do, and clip it; its norm before clipping."""
        weights = self._weights()
        if self.perturbation == "local":
            ranks.average_gradients(weights, self.process_group)
        found = vectors.gradients(weights)
        norm = vectors.norm(found)
        if self.clip_norm is not None:
            vectors.scale_(found, (self.clip_norm / norm).clamp(max=1.0))
        return norm

    def _require_finite(self, loss: Any, norm: Tensor, passes: int) -> None:
        """Raise where the loss or the gradient just computed is not finite; one sync."""
        if not self.check_finite:
            return
        values = [norm]
        if isinstance(loss, (Tensor, float)):
            values.append(torch.as_tensor(loss, dtype=norm.dtype, device=norm.device).reshape(()))
        finite = bool(torch.isfinite(torch.stack(values)).all())
        if self.perturbation == "local":
            finite = ranks.everywhere(finite, norm.device, self.process_group)
        if not finite:
            shown = float(loss) if isinstance(loss, (Tensor, float)) else loss
            raise NonFiniteGradientError(
                f"Pass {passes} of the step has loss {shown} and a gradient of norm "
                f"{float(norm)}: training diverged. The weights are as before the step; try a "
                "smaller `lr`, or `clip_norm`.",
                norm,
                passes,
            )

    def _update_loss_scale(self, *, overflow: bool) -> None:
        """One ``update`` per step that has heard of all its passes.

        The scaler only counts what it unscales itself, so a gradient of one number tells it.
        """
        if self.grad_scaler is None:
            return
        device = self.param_groups[0]["params"][0].device
        messenger = torch.zeros(1, device=device, requires_grad=True)
        messenger.grad = torch.full_like(messenger, float("inf") if overflow else 0.0)
        self.grad_scaler.unscale_(torch.optim.SGD([messenger], lr=0.0))
        self.grad_scaler.update()

    def _record(self, norm: Tensor, passes: int, *, active: str, **values: Any) -> None:
        report = {"eta": float(self.param_groups[0]["lr"]), "theta": None, "rho": None}
        counts = {"gradient_norm": norm, "gradients": passes, "active": active}
        self._report = {**report, **values, **counts}
