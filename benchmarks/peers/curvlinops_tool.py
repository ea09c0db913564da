"""curvlinops 3 (Dangel et al. 2025), with scipy's eigsh for eigenvalues, as it documents.

Several vectors are multiplied at a time: its trace functions pass all of their vectors at once.
"""

import torch
from curvlinops import HessianLinearOperator, hutchinson_trace, hutchpp_trace, xtrace
from scipy.sparse.linalg import eigsh
from torch import nn

from peers.common import Batches, Eigen, Product

TITLE = "curvlinops"
TRACES = ("hutchinson", "hutch++", "xtrace")
_TRACES = {"hutchinson": hutchinson_trace, "hutch++": hutchpp_trace, "xtrace": xtrace}


def product(model: nn.Module, batches: Batches) -> Product:
    A = _operator(model, batches)
    return lambda v: A @ v


def trace(model: nn.Module, batches: Batches, products: int, seed: int, method: str) -> float:
    torch.manual_seed(seed)
    return float(_TRACES[method](_operator(model, batches), products))


def eigmax(model: nn.Module, batches: Batches, seed: int, *, tol: float = 1e-3) -> Eigen:
    A = _counted(model, batches)
    (value,) = eigsh(A, k=1, which="LA", tol=tol, return_eigenvectors=False)
    return Eigen(float(value), A.products)


def top_two(model: nn.Module, batches: Batches, seed: int) -> list[float]:
    A = _counted(model, batches)
    return sorted(map(float, eigsh(A, k=2, which="LA", return_eigenvectors=False)), reverse=True)


def _operator(model: nn.Module, batches: Batches) -> HessianLinearOperator:
    params = [p for p in model.parameters() if p.requires_grad]
    n = sum(len(y) for _, y in batches)
    return HessianLinearOperator(
        model, nn.CrossEntropyLoss(), params, batches, check_deterministic=False, num_data=n
    )


def _counted(model: nn.Module, batches: Batches):
    A = _operator(model, batches).to_scipy()
    A.products, plain = 0, A._matvec

    def matvec(v):
        A.products += 1
        return plain(v)

    A._matvec = matvec
    return A
