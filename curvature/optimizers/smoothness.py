"""The step size that the local smoothness allows (Malitsky and Mishchenko 2020)."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Formula:
    """The constants in which the poster's formulas and the released code's differ."""

    growth: float = 1.0  # of θ in the growth cap √(1 + growth·θ) η
    damping: float = 2.0  # of ‖Δg‖ in the smoothness term
    theta0: float = math.inf
    rho_lag: bool = False  # ρ_t = √η_{t−1} instead of √η_t
    epsilon: float = 0.0  # added to the min, and to ‖g‖ in the ascent
    per_group: bool = False  # one η for each parameter group
    grow_at_zero: bool = False  # a zero Δw or Δg (the first step has both): η grows by the cap

    def __post_init__(self) -> None:
        for name in ("growth", "theta0", "epsilon"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}.")
        if not 0 < self.damping < math.inf:
            raise ValueError(f"`damping` must be positive, got {self.damping}.")
        if self.grow_at_zero and math.isinf(self.theta0):
            raise ValueError("`grow_at_zero` needs a finite `theta0`: the first step grows by it.")


FORMULAS: dict[str, Formula] = {
    "poster": Formula(),
    "released": Formula(
        growth=0.02,
        damping=1.0,
        theta0=1.0,
        rho_lag=True,
        epsilon=1e-8,
        per_group=True,
        grow_at_zero=True,
    ),
}


@dataclass(frozen=True)
class StepSize:
    """η_t, η_{t−1}, θ_t = η_t / η_{t−1}, and which term of the min set η_t."""

    eta: float
    previous: float
    theta: float
    active: str


def first_step_size(eta: float, formula: Formula) -> StepSize:
    """η_0 and θ_0; with ``grow_at_zero`` η_0 grown by the cap, since Δw is zero."""
    if not formula.grow_at_zero:
        return StepSize(eta, eta, formula.theta0, "first")
    cap = math.sqrt(1 + formula.growth * formula.theta0) * eta
    return StepSize(cap, eta, cap / eta, "first")


def next_step_size(
    eta: float, theta: float, distance: float, difference: float, formula: Formula
) -> StepSize:
    """η_t = min(‖Δw‖ / (damping ‖Δg‖), √(1 + growth θ) η) + epsilon.

    Where Δw = 0 there is nothing to learn: η is kept. Where only Δg = 0 the first term is +∞; if
    the second is too (θ_0), η is kept. With ``grow_at_zero`` η grows by the cap in these cases.

    >>> next_step_size(0.1, math.inf, distance=1.0, difference=4.0, formula=Formula())
    StepSize(eta=0.125, previous=0.1, theta=1.25, active='smoothness')
    """
    cap = math.sqrt(1 + formula.growth * theta) * eta
    smooth = distance / (formula.damping * difference) if difference > 0 else math.inf
    if formula.grow_at_zero and (distance == 0 or difference == 0):
        new, active = cap, "growth"
    elif distance == 0 or math.isinf(min(smooth, cap)):
        new, active = eta, "kept"
    else:
        new = min(smooth, cap) + formula.epsilon
        active = "smoothness" if smooth <= cap else "growth"
    if not 0 < new < math.inf:
        raise FloatingPointError(
            f"The step size became {new} from {eta}, with ‖Δw‖ = {distance} and ‖Δg‖ = "
            f"{difference}: no step is possible. The weights are as before the step; start from "
            "another `lr`."
        )
    return StepSize(new, eta, new / eta, active)
