"""PyHessian 0.1 of PyPI (Yao, Gholami, Keutzer & Mahoney 2020).

Its product, probes and power iteration are those of the repository; there the trace's stop rule
divides by the absolute value, and the density uses a function that PyTorch still has.
"""

import math
import warnings

import torch
from pyhessian import hessian
from torch import Tensor, nn

from peers.common import Batches, Eigen, Product, flat, split

TITLE = "PyHessian"
TRACES = ("hutchinson",)


def product(model: nn.Module, batches: Batches) -> Product:
    asked = _asked(model, batches)

    def apply(v: Tensor) -> Tensor:
        with _quiet():
            return flat(asked.dataloader_hv_product(split(v, model))[1])

    return apply


def trace(model: nn.Module, batches: Batches, products: int, seed: int, method: str) -> float:
    torch.manual_seed(seed)
    with _quiet():
        values = _asked(model, batches).trace(maxIter=products, tol=-math.inf)  # never stops early
    return sum(values) / len(values)


def eigmax(model: nn.Module, batches: Batches, seed: int, *, tol: float = 1e-3) -> Eigen:
    torch.manual_seed(seed)
    asked, history = _asked(model, batches), []
    plain = asked.dataloader_hv_product

    def recorded(v: list[Tensor]) -> tuple[float, list[Tensor]]:
        value, Hv = plain(v)
        history.append(value)
        return value, Hv

    asked.dataloader_hv_product = recorded
    with _quiet():
        (value,), _ = asked.eigenvalues(tol=tol)
    return Eigen(float(value), len(history), history)


def top_two(model: nn.Module, batches: Batches, seed: int) -> list[float]:
    torch.manual_seed(seed)
    with _quiet():
        return [float(x) for x in _asked(model, batches).eigenvalues(maxIter=1000, top_n=2)[0]]


def _asked(model: nn.Module, batches: Batches) -> hessian:
    return hessian(model, nn.CrossEntropyLoss(), dataloader=batches, cuda=False)


class _quiet(warnings.catch_warnings):  # noqa: N801 (a context manager)
    """Without the warning that backward(create_graph=True) leaks, which it does."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
