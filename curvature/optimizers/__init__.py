"""The optimizers that can be named, and `build` for one of them."""

from collections.abc import Callable, Iterable
from typing import Any

from torch.amp import GradScaler

from curvature import names
from curvature.optimizers.adam import Adam
from curvature.optimizers.based import Based
from curvature.optimizers.closure import closure
from curvature.optimizers.named import adam, msgd, sa_sam, sa_sgd, sam, sgd
from curvature.optimizers.sa import SASAM, SASGD
from curvature.optimizers.sam import SAM
from curvature.optimizers.sgd import SGD
from curvature.optimizers.smoothness import FORMULAS
from curvature.optimizers.step import ClosureOptimizer, Params, StepReport
from curvature.optimizers.threshold import Threshold, stability_threshold

__all__ = [
    "OPTIMIZERS",
    "SAM",
    "SASAM",
    "SASGD",
    "SGD",
    "Adam",
    "Based",
    "ClosureOptimizer",
    "StepReport",
    "Threshold",
    "build",
    "closure",
    "stability_threshold",
]

OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "sgd": sgd,
    "msgd": msgd,
    "adam": adam,
    "sam": sam,
    "sa-sgd": sa_sgd,
    "sa-sam": sa_sam,
}


def build(
    name: str,
    params: Params,
    *,
    lr: float,
    weight_decay: float = 0.0,
    rho: float | None = None,
    sa_variant: str = "poster",
    clip_norm: float | None = None,
    grad_scaler: GradScaler | None = None,
    options: Iterable[str] = (),
) -> ClosureOptimizer:
    """The optimizer of that name, or of module:class; ``options`` are key=value strings.

    ``sa_variant`` only concerns sa-sgd and sa-sam. Anything else that the optimizer doesn't take
    is refused, ``rho`` included.
    """
    if sa_variant not in FORMULAS:
        raise ValueError(f"`sa_variant` is {' or '.join(FORMULAS)}, got {sa_variant!r}.")
    make = names.resolve(name, OPTIMIZERS, "optimizer")
    ours = make in OPTIMIZERS.values()
    asked: dict[str, Any] = _parsed(options)
    if rho is not None:
        if "rho" in asked:
            raise ValueError(f"`rho` is given twice: {rho:g}, and as an option {asked['rho']}.")
        asked["rho"] = rho
    given: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
    common: dict[str, Any] = {"clip_norm": clip_norm, "grad_scaler": grad_scaler}
    if ours:
        given |= {"variant": sa_variant, **common}
    keywords = names.arguments(make, asked, f"optimizer `{name}`", **given)
    if weight_decay and "weight_decay" not in keywords:
        raise ValueError(f"The optimizer `{name}` has no weight decay; set it to 0.")
    made = make(params, **keywords)
    return made if isinstance(made, ClosureOptimizer) else Based(made, **common)


def _parsed(options: Iterable[str]) -> dict[str, str]:
    pairs = {}
    for item in options:
        key, equals, value = item.partition("=")
        if not (key and equals):
            raise ValueError(f"The optimizer option `{item}` is not of the form key=value.")
        if key in ("params", "lr", "weight_decay", "variant", "clip_norm", "grad_scaler"):
            raise ValueError(f"`{key}` is not an option of an optimizer but set for all of them.")
        pairs[key] = value
    return pairs
