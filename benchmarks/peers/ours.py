"""This package, through its public functions."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import curvature
from peers.common import Batches, Product

TITLE = "curvature"


def hessian(model: nn.Module, batches: Batches, **options: Any) -> curvature.LinearOperator:
    return curvature.hessian(model, "cross_entropy", batches, **options)


@contextmanager
def kept(model: nn.Module, batches: Batches) -> Iterator[Product]:
    """v ↦ Hv with the gradient's graph kept, as the eigenvalue functions have it."""
    with hessian(model, batches).linearized() as A:
        yield lambda v: A @ v


def trace(model: nn.Module, batches: Batches, seed: int, **options: Any) -> dict[str, Any]:
    """From nothing, so checks and choices are counted in."""
    generator = torch.Generator().manual_seed(seed)
    found = curvature.trace(hessian(model, batches), generator=generator, **options)
    return {
        "value": found.value,
        "standard_error": found.standard_error,
        "passes": found.passes,
        "converged": found.converged,
        "method": found.method,
    }


def eigmax(model: nn.Module, batches: Batches, seed: int, **options: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    H = hessian(model, batches)
    found = curvature.eigmax(H, generator=generator, **options)
    return {
        "value": found.value,
        "residual": found.residual,
        "products": found.products,
        "converged": found.converged,
        "method": getattr(found, "method", H.method),
    }


def vector(n: int, seed: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))
