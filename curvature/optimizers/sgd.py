"""Stochastic gradient descent, w ← w − η g, and with momentum: torch's, closures included."""

from typing import Any

import torch

from curvature.optimizers.based import Based
from curvature.optimizers.step import Params


class SGD(Based):
    """v ← μ v + g + λw ; w ← w − η v, as ``torch.optim.SGD``. One gradient per step."""

    def __init__(
        self,
        params: Params,
        lr: float,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        **common: Any,
    ) -> None:
        base = torch.optim.SGD(
            params,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            nesterov=nesterov,
            foreach=foreach,
            fused=fused,
        )
        super().__init__(base, **common)
