"""hessian-eigenthings 1.0.0a5 (Golmant et al. 2018): an operator, Hutch++, Lanczos.

Its Lanczos takes 2 k steps unless told otherwise, which is 2 for λ_max; here it takes ``STEPS``,
and the value after each is read off its tridiagonal matrix.
"""

import torch
from hessian_eigenthings import (
    HessianOperator,
    lanczos,
    lanczos_tridiagonal,
    supervised_loss,
)
from hessian_eigenthings import trace as its_trace
from torch import nn

from peers.common import Batches, Eigen, Product

TITLE = "hessian-eigenthings"
TRACES = ("hutchinson", "hutch++")
STEPS = 12


def product(model: nn.Module, batches: Batches) -> Product:
    return _operator(model, batches).matvec


def trace(model: nn.Module, batches: Batches, products: int, seed: int, method: str) -> float:
    A = _operator(model, batches)
    return its_trace(A, num_matvecs=products, method=method, seed=seed).estimate


def eigmax(model: nn.Module, batches: Batches, seed: int, *, steps: int = STEPS) -> Eigen:
    A = _operator(model, batches)
    v = torch.randn(A.size, dtype=A.dtype, generator=torch.Generator().manual_seed(seed))
    found = lanczos_tridiagonal(A, v, steps)
    a, b = found.alphas, found.betas
    history = []
    for k in range(1, len(a) + 1):
        T = torch.diag(a[:k]) + torch.diag(b[: k - 1], 1) + torch.diag(b[: k - 1], -1)
        history.append(float(torch.linalg.eigvalsh(T)[-1]))
    return Eigen(history[-1], found.iterations, history)


def top_two(model: nn.Module, batches: Batches, seed: int) -> list[float]:
    A = _operator(model, batches)
    steps = min(A.size, 40)
    return lanczos(A, k=2, max_iter=steps, which="LA", seed=seed).eigenvalues.tolist()


def _operator(model: nn.Module, batches: Batches) -> HessianOperator:
    return HessianOperator(model, batches, supervised_loss(nn.CrossEntropyLoss()))
