"""The edge of stability: beyond which curvature a step of gradient descent no longer contracts.

On a quadratic of curvature λ: 2/η for gradient descent, 2(1 + μ)/η with heavy-ball momentum as
torch's SGD has it, 2(1 + μ)/((1 + 2μ)η) with Nesterov's (Cohen et al. 2021, appendix B).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from curvature.optimizers.based import Based
from curvature.optimizers.sa import SASAM, SASGD
from curvature.optimizers.sam import SAM


@dataclass(frozen=True)
class Threshold:
    """``value`` is compared with λ_max of the loss without its L2 term; ``formula`` says how."""

    value: float
    formula: str


def stability_threshold(optimizer: Optimizer) -> Threshold | None:
    """The λ_max from which full-batch steps of ``optimizer`` diverge along their eigenvector.

    None where there is no such number: Adam and whatever else rescales gradients, several
    learning rates, η = 0. An ascent step makes SAM unstable earlier, so there it is an upper bound.
    """
    descending = optimizer.base if isinstance(optimizer, Based) else optimizer
    found = {_of_group(descending, group) for group in optimizer.param_groups}
    if len(found) != 1 or None in found:
        return None
    edge, formula = next(iter(found))  # type: ignore[misc]
    decay = min(float(group.get("weight_decay") or 0.0) for group in optimizer.param_groups)
    formula += " - weight decay" if decay else ""
    formula += ", of the step without the ascent" if _climbs(optimizer) else ""
    return Threshold(edge - decay, formula)


def _of_group(descending: Any, group: dict[str, Any]) -> tuple[float, str] | None:
    eta = float(group["lr"])
    if not eta > 0:
        return None
    if isinstance(descending, SASGD):
        return 2 / eta, "2/η_t"
    if type(descending) is not torch.optim.SGD or group.get("maximize"):
        return None
    mu, damped = float(group["momentum"]), 1 - float(group["dampening"])
    if not mu:
        return 2 / eta, "2/η"
    if group["nesterov"]:
        return 2 * (1 + mu) / ((1 + 2 * mu) * eta), "2(1+μ)/((1+2μ)η)"
    if damped <= 0:
        return None
    return 2 * (1 + mu) / (damped * eta), "2(1+μ)/η" if damped == 1 else "2(1+μ)/((1-τ)η)"


def _climbs(optimizer: Optimizer) -> bool:
    if isinstance(optimizer, SAM):
        return any(group["rho"] > 0 for group in optimizer.param_groups)
    return isinstance(optimizer, SASAM)
