"""Tr(H) and λ_max by ways that share no code with the estimators, far better than 1 % and 1e-3.

tr(G) is summed exactly over the gradients of all logits. tr(H − G) is 0 where the network is
piecewise linear in each parameter; else the mean of probes in groups of images, by autograd twice.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn import functional as F

from peers import ours
from peers.common import split
from subjects import Batches, Subject

_AT_ONCE = 8  # images whose Jacobians are held
_TOGETHER = 8  # images that share a probe


def trace(subject: Subject, *, probes: int) -> dict[str, Any]:
    G = gauss_newton_trace(subject.model, subject.batches)
    if not subject.smooth:
        return {"value": G, "tr_G": G, "tr_R": 0.0, "standard_error": 0.0}
    R, error = functional_trace(subject.model, subject.batches, probes)
    return {"value": G + R, "tr_G": G, "tr_R": R, "standard_error": error}


def gauss_newton_trace(model: nn.Module, batches: Batches) -> float:
    """Σ_i Σ_cd Λ_cd ⟨∇f_c, ∇f_d⟩ / N, with Λ = diag p − ppᵀ in float64."""
    params = {name: p.detach() for name, p in model.named_parameters()}

    def logits(params: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(model, params, (x[None],))[0]

    jacobian = vmap(jacrev(logits), in_dims=(None, 0))
    total, n = 0.0, 0
    for x, _ in batches:
        for some in x.split(_AT_ONCE):
            with torch.no_grad():
                p = model(some).double().softmax(1)
            J = torch.cat([j.flatten(2) for j in jacobian(params, some).values()], 2)
            gram = (J @ J.mT).double()
            diagonal = gram.diagonal(dim1=1, dim2=2)
            total += float((p * diagonal).sum() - torch.einsum("ic,icd,id->", p, gram, p))
            n += len(some)
    return total / n


def functional_trace(model: nn.Module, batches: Batches, probes: int) -> tuple[float, float]:
    """The mean and standard error of Σ_b z_bᵀ R_b z_b with a fresh z for each batch and probe."""
    params = list(model.parameters())
    n = sum(len(y) for _, y in batches)
    generator = torch.Generator().manual_seed(1)
    groups = [
        group
        for x, y in batches
        for group in zip(x.split(_TOGETHER), y.split(_TOGETHER), strict=True)
    ]
    values = torch.zeros(probes, len(groups), dtype=torch.float64)
    for b, (x, y) in enumerate(groups):
        f = model(x)
        r = (f.detach().softmax(1) - F.one_hot(y, f.shape[1])) / n
        g = torch.autograd.grad((r * f).sum(), params, create_graph=True)
        curved = [i for i, each in enumerate(g) if each.requires_grad]  # not the last bias, say
        for k in range(probes):
            z = torch.randint(2, (sum(p.numel() for p in params),), generator=generator)
            pieces = split(z.to(f) * 2 - 1, model)
            Rz = torch.autograd.grad(
                [g[i] for i in curved],
                params,
                [pieces[i] for i in curved],
                retain_graph=True,
                materialize_grads=True,
                allow_unused=True,
            )
            values[k, b] = sum(float((a * b).sum()) for a, b in zip(pieces, Rz, strict=True))
    error = float((values.var(0) / probes).sum().sqrt())
    return float(values.mean(0).sum()), error


def eigmax(subject: Subject) -> dict[str, Any]:
    """``eigsh`` to a tolerance of 1e-6; the value and residual are of one plain product more."""
    n = subject.parameters
    with ours.kept(subject.model, subject.batches) as kept:
        A = LinearOperator((n, n), matvec=partial(_apply, kept), dtype=np.float64)
        start = ours.vector(n, 7).double().numpy()
        (value,), V = eigsh(A, k=1, which="LA", tol=1e-6, v0=start)
    v = V[:, 0]
    Hv = product(subject.model, subject.batches, v)
    return {
        "eigsh": float(value),
        "value": float(v @ Hv),
        "residual": float(np.linalg.norm(Hv - (v @ Hv) * v)),
    }


def product(model: nn.Module, batches: Batches, v: np.ndarray) -> np.ndarray:
    """Hv of the mean loss, by autograd twice."""
    params = list(model.parameters())
    n = sum(len(y) for _, y in batches)
    z = split(torch.from_numpy(v).to(params[0]), model)
    out = np.zeros(len(v))
    for x, y in batches:
        loss = F.cross_entropy(model(x), y, reduction="sum") / n
        g = torch.autograd.grad(loss, params, create_graph=True)
        Hz = torch.autograd.grad(g, params, z)
        out += torch.cat([h.reshape(-1) for h in Hz]).double().numpy()
    return out


def _apply(product: Any, v: np.ndarray) -> np.ndarray:
    return product(torch.from_numpy(v).float().reshape(-1)).double().numpy()
