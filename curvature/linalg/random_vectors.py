"""Random vectors, drawn on the CPU and then moved, so that every device sees the same ones."""

from __future__ import annotations

import torch
from torch import Tensor

from curvature.linalg.operator import LinearOperator, norm


def rademacher(A: LinearOperator, generator: torch.Generator) -> Tensor:
    """A vector of random signs for ``A``; 8-bit until it is on the device."""
    signs = torch.randint(2, (A.size,), generator=generator, dtype=torch.int8)
    return signs.mul_(2).sub_(1).to(A.device).to(A.dtype)


def random_unit(A: LinearOperator, generator: torch.Generator) -> Tensor:
    """A vector for ``A`` of uniformly distributed direction and length 1."""
    v = torch.randn(A.size, generator=generator).to(A.device).to(A.dtype)
    return v / norm(v).item()
