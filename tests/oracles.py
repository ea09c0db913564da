"""Derivatives that share no code with ours, and trust no second derivative of autograd."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

STEP = 1e-5


def hessian_by_differences(
    value: Callable[[], Tensor], params: Sequence[Tensor], V: Tensor
) -> Tensor:
    """HV, (n, k), by central differences of the gradient along the columns of V."""
    return _along(lambda: _gradient(value(), params), params, V)


def ggn_by_differences(
    outputs: Callable[[], Tensor],
    loss: Callable[[Tensor], Tensor],
    params: Sequence[Tensor],
    V: Tensor,
) -> Tensor:
    """JᵀΛJV: Jv by differences of the outputs, Λu by differences of the loss's gradient."""
    JV = _along(lambda: outputs().detach().reshape(-1), params, V)
    f = outputs().detach()
    columns = []
    for u in JV.T:
        t = STEP / (1 + float(u.norm()))
        plus, minus = (_loss_gradient(loss, f + s * t * u.view_as(f)) for s in (1, -1))
        columns.append(_gradient((outputs() * (plus - minus) / (2 * t)).sum(), params))
    return torch.stack(columns, 1)


def _loss_gradient(loss: Callable[[Tensor], Tensor], f: Tensor) -> Tensor:
    f = f.detach().requires_grad_()
    value = loss(f)
    return torch.autograd.grad(value, f)[0] if value.requires_grad else torch.zeros_like(f)


def _gradient(value: Tensor, params: Sequence[Tensor]) -> Tensor:
    grads = torch.autograd.grad(value, params, materialize_grads=True)
    return torch.cat([g.to_dense().reshape(-1) for g in grads]).double()


def _along(function: Callable[[], Tensor], params: Sequence[Tensor], V: Tensor) -> Tensor:
    columns = []
    for v in V.T:
        h = STEP / (1 + float(v.norm()))
        kept = [p.detach().clone() for p in params]
        ends = torch.tensor([p.numel() for p in params]).cumsum(0).tolist()
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                for p, w, end in zip(params, kept, ends, strict=True):
                    p.copy_(w + sign * h * v[end - p.numel() : end].view_as(p))
            values.append(function())
        with torch.no_grad():
            for p, w in zip(params, kept, strict=True):
                p.copy_(w)
        columns.append((values[0] - values[1]) / (2 * h))
    return torch.stack(columns, 1)
