"""What Hutchinson's probes, Hutch++ and XTrace make of a number of products, from one pool of them.

A few Rademacher vectors Z with HZ and HHZ are enough: all that Hutch++ (Meyer et al. 2021) and
XTrace (Epperly et al. 2024) ask of H lies in them. The pool is of our own product, since Hz is
the same for every tool; each of many random subsets of the pool gives one estimate.
"""

from typing import Any

import torch
from torch import Tensor

from peers import ours
from subjects import Subject

_SUBSETS = 200


def measure(subject: Subject, *, probes: int, twice: int, value: float) -> dict[str, Any]:
    """zᵀHz of ``probes`` vectors; the error of the other two, from the first ``twice`` of them."""
    generator = torch.Generator().manual_seed(3)
    Z = torch.randint(2, (probes, subject.parameters), generator=generator).float() * 2 - 1
    with ours.kept(subject.model, subject.batches) as H:
        HZ = torch.stack([H(z) for z in Z])
        HHZ = torch.stack([H(Hz) for Hz in HZ[:twice]])
    forms = (Z.double() * HZ).sum(1)
    return {
        "value": value,
        "forms": forms.tolist(),
        "deviation": float(forms.std()),
        **from_vectors(Z[:twice], HZ[:twice], HHZ, value),
    }


def from_vectors(Z: Tensor, HZ: Tensor, HHZ: Tensor, value: float) -> dict[str, Any]:
    """Root mean square errors relative to the true trace, by the number of products."""
    grams = _Grams(*(A.double() for A in (Z, HZ, HHZ)))
    generator = torch.Generator().manual_seed(4)
    errors: dict[str, dict[int, float]] = {"hutch++": {}, "xtrace": {}}
    for k in (2, 3, 4, 6, 8, 10, 12, 16, 20):
        for name, each, used in (("hutch++", _hutchpp, 2 * k), ("xtrace", _xtrace, k)):
            if 2 * used > len(Z):  # subsets of more would hardly differ
                continue
            chosen = [torch.randperm(len(Z), generator=generator)[:used] for _ in range(_SUBSETS)]
            found = torch.tensor([each(grams, rows) for rows in chosen])
            products = 3 * k if name == "hutch++" else 2 * k
            errors[name][products] = float((found / value - 1).square().mean().sqrt())
    return {"errors": errors}


class _Grams:
    """All inner products there are between Z, HZ and HHZ; the vectors themselves aren't needed."""

    def __init__(self, Z: Tensor, HZ: Tensor, HHZ: Tensor) -> None:
        self.zh, self.zhh = Z @ HZ.T, Z @ HHZ.T
        self.hh, self.hhh = HZ @ HZ.T, HZ @ HHZ.T


def _hutchpp(g: _Grams, rows: Tensor) -> float:
    """Q spans H of the first half; Hutchinson with the second half beside it."""
    s, t = rows.chunk(2)
    # Q = HS·C with CᵀC⁻¹ of the Gram matrix; the orthonormal basis doesn't matter
    C = _whitener(g.hh[s][:, s])
    inside = (C.T @ g.hhh[s][:, s] @ C).diagonal().sum()
    Qg = C.T @ g.zh[t][:, s].T  # Qᵀg for each g
    gHQ = (g.zhh[t][:, s] @ C).T
    QHQ = C.T @ g.hhh[s][:, s] @ C
    forms = g.zh[t, t] - 2 * (Qg * gHQ).sum(0) + (Qg * (QHQ @ Qg)).sum(0)
    return float(inside + forms.mean())


def _xtrace(g: _Grams, rows: Tensor) -> float:
    """For each vector: Q spans H of the others, and the one left out is the probe."""
    values = []
    for i in range(len(rows)):
        s, t = torch.cat([rows[:i], rows[i + 1 :]]), rows[i]
        C = _whitener(g.hh[s][:, s])
        QHQ = C.T @ g.hhh[s][:, s] @ C
        Qg = C.T @ g.zh[t, s]
        gHQ = C.T @ g.zhh[t, s]
        values.append(QHQ.diagonal().sum() + g.zh[t, t] - 2 * Qg @ gHQ + Qg @ QHQ @ Qg)
    return float(torch.stack(values).mean())


def _whitener(gram: Tensor) -> Tensor:
    """C with Cᵀ·gram·C = I."""
    L = torch.linalg.cholesky(gram)
    return torch.linalg.solve_triangular(L, torch.eye(len(gram), dtype=L.dtype), upper=False).T
