"""Adam (Kingma and Ba 2015): torch's, with weight decay as its L2 term, closures included."""

from typing import Any

import torch

from curvature.optimizers.based import Based
from curvature.optimizers.step import Params


class Adam(Based):
    """``torch.optim.Adam`` on g + λw: L2, not decoupled. One gradient per step."""

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        fused: bool | None = None,
        **common: Any,
    ) -> None:
        base = torch.optim.Adam(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            foreach=foreach,
            fused=fused,
        )
        super().__init__(base, **common)
