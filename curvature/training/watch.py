"""What is told of a run while it goes: means over the epoch so far, and how far it is."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from curvature.optimizers import StepReport

Row = dict[str, Any]


@dataclass(frozen=True)
class Progress:
    """One step done. ``loss`` is the mean over the epoch so far, ``accuracy`` the last epoch's."""

    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float
    accuracy: float | None
    eta: float


@dataclass
class Meter:
    """Sums over the steps of one epoch so far; plain numbers, so that a checkpoint holds them."""

    steps: int = 0
    examples: int = 0
    loss: float = 0.0
    gradient_norm: float = 0.0
    eta: float = math.nan
    theta: float | None = None
    rho: float | None = None
    eta_min: float = math.inf
    eta_max: float = 0.0
    active: str = ""
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, loss: float, examples: int, report: StepReport) -> None:
        """Count a step in."""
        self.steps += 1
        self.examples += examples
        self.loss += loss * examples
        self.gradient_norm += report.gradient_norm
        self.eta, self.theta, self.rho = report.eta, report.theta, report.rho
        self.eta_min = min(self.eta_min, report.eta)
        self.eta_max = max(self.eta_max, report.eta)
        self.active = report.active
        self.counts[report.active] = self.counts.get(report.active, 0) + 1

    @property
    def mean_loss(self) -> float:
        """The mean training loss, each mini-batch's taken before its step."""
        return self.loss / self.examples if self.examples else math.nan

    def row(self) -> Row:
        """The columns of history that the steps give: means over the epoch, η, θ, ρ of its end."""
        row: Row = {"train_loss": self.mean_loss if self.steps else None}
        if not self.steps:
            return row
        row |= {"eta": self.eta, "eta_min": self.eta_min, "eta_max": self.eta_max}
        row |= {"theta": self.theta, "rho": self.rho, "active": self.active}
        row |= {"gradient_norm": self.gradient_norm / self.steps}
        adaptive = sorted(set(self.counts) - {"fixed"})
        return row | {f"{branch}_steps": self.counts[branch] for branch in adaptive}

    def state(self) -> dict[str, Any]:
        """The sums, for a checkpoint in mid-epoch."""
        return asdict(self)
