"""Right and wrong numbers: each tool's Hv, Tr(H), λ_max and second eigenvalue in float64.

The reference is the whole matrix by central differences of the gradient, which trusts no second
derivative. A trace by probes is right where it lies within four of its deviations.
"""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import curvature
from peers import ours
from results import Results
from subjects import Batches
from tables.cases import CASES, Case

_H = 1e-3  # the five-point formula is then good to about 1e-11
_PRODUCTS = 600  # of a trace by probes


def measure(tools: dict[str, ModuleType], results: Results, *, quick: bool) -> None:
    for case in CASES[:2] if quick else CASES:
        part = partial(_case, case, tools, rtol=0.03 if quick else 1e-3)
        results.part(f"right/{case.name}", part)


def by_differences(case: Case) -> Tensor:
    """∇²L of the mean over all examples, column by column."""
    model, batches = case.model(), case.batches()
    params = list(model.parameters())
    flat = torch.cat([p.detach().reshape(-1) for p in params])

    def gradient(w: Tensor) -> Tensor:
        torch.nn.utils.vector_to_parameters(w, params)
        n = sum(len(y) for _, y in batches)
        total = torch.zeros_like(w)
        for x, y in batches:
            loss = torch.nn.functional.cross_entropy(model(x), y, reduction="sum") / n
            grads = torch.autograd.grad(loss, params, allow_unused=True)
            pieces = [
                torch.zeros_like(p) if g is None else g for p, g in zip(params, grads, strict=True)
            ]
            total += torch.cat([g.reshape(-1) for g in pieces])
        return total

    columns = []
    for e in torch.eye(len(flat), dtype=flat.dtype):
        near = gradient(flat + _H * e) - gradient(flat - _H * e)
        far = gradient(flat + 2 * _H * e) - gradient(flat - 2 * _H * e)
        columns.append((8 * near - far) / (12 * _H))
    H = torch.stack(columns, 1)
    return (H + H.T) / 2


def _case(case: Case, tools: dict[str, ModuleType], *, rtol: float) -> dict[str, Any]:
    H = by_differences(case)
    eigenvalues = torch.linalg.eigvalsh(H)
    off_diagonal = (H - H.diag().diag()).square().sum()
    truth = {
        "n": len(H),
        "trace": float(H.trace()),
        "deviation": float((2 * off_diagonal / _PRODUCTS).sqrt()),  # of a mean of probes
        "top": eigenvalues.flip(0)[:2].tolist(),
        "lowest": float(eigenvalues[0]),
    }
    found = {"ours": _ours(case, H, rtol)}
    for name, tool in tools.items():
        found[name] = _peer(tool, case, H)
    return {"truth": truth, "tools": found}


def _ours(case: Case, H: Tensor, rtol: float) -> dict[str, Any]:
    model, batches = case.model(), case.batches()

    def traced() -> list[float]:
        found = ours.trace(model, batches, 0, rtol=rtol)
        return [found["value"], found["standard_error"]]

    return {
        "product": _tried(lambda: _error(lambda v: ours.hessian(model, batches) @ v, H)),
        "trace": _tried(traced),
        "eigmax": _tried(lambda: ours.eigmax(model, batches, 0, rtol=1e-6)["value"]),
        "top": _tried(
            lambda: [
                each.value
                for each in curvature.eigenvalues(ours.hessian(model, batches), 2, rtol=1e-6)
            ]
        ),
    }


def _peer(tool: ModuleType, case: Case, H: Tensor) -> dict[str, Any]:
    def with_fresh(call: Callable[[torch.nn.Module, Batches], Any]) -> Any:
        return _tried(lambda: call(case.model(), case.batches()))

    return {
        "product": with_fresh(lambda m, b: _error(tool.product(m, b), H)),
        "trace": with_fresh(lambda m, b: [_mean_trace(tool, m, b), None]),
        "eigmax": with_fresh(lambda m, b: _eigmax(tool, m, b)),
        "top": with_fresh(lambda m, b: tool.top_two(m, b, 0)),
    }


def _mean_trace(tool: ModuleType, model: torch.nn.Module, batches: Batches) -> float:
    """By Hutchinson's probes, in calls of as many products as curvlinops allows at a time."""
    count = sum(p.numel() for p in model.parameters()) // 2
    calls = -(-_PRODUCTS // count)
    values = [tool.trace(model, batches, count, seed, "hutchinson") for seed in range(calls)]
    return sum(values) / calls


def _eigmax(tool: ModuleType, model: torch.nn.Module, batches: Batches) -> float:
    steps = {"steps": sum(p.numel() for p in model.parameters())}
    options = {"tol": 1e-6} if tool.TITLE != "hessian-eigenthings" else steps
    return float(tool.eigmax(model, batches, 0, **options).value)


def _error(product: Callable[[Tensor], Tensor], H: Tensor) -> float:
    """max over three vectors of ‖Av − Hv‖ / ‖Hv‖."""
    generator = torch.Generator().manual_seed(9)
    V = torch.randn(3, len(H), generator=generator, dtype=H.dtype)
    return max(float((product(v) - H @ v).norm() / (H @ v).norm()) for v in V)


def _tried(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:150]}"}
