"""Tr(H) and λ_max of a ReLU ResNet-20 by ways that share no code with the estimators.

    python benchmarks/resnet20_oracles.py CHECKPOINT CIFAR_DIR --examples 1000

Tr(H): this network is piecewise linear in each parameter, so tr(H) = tr(G), and tr(G) is summed
exactly from the gradient of every logit of every image: tr(G_i) = Σ_cd Λ_cd ⟨∇f_c, ∇f_d⟩.
λ_max: ``scipy.sparse.linalg.eigsh`` over autograd twice written out here, and PyHessian's power
iteration run to a tight tolerance.
"""

import argparse
import json
import time
import warnings

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch.nn import functional as F

from curvature import datasets, models
from curvature.datasets.batches import choose, fixed
from curvature.runs.checkpoint import load_checkpoint
from curvature.runs.loading import load_weights


def exact_trace(model: torch.nn.Module, batches: list) -> float:
    """Σ_i tr(J_iᵀ Λ_i J_i) / N, one image and one logit at a time; sums in float64."""
    params = list(model.parameters())
    total, n = 0.0, 0
    for x, _ in batches:
        for image in x:
            f = model(image[None])[0]
            p = f.detach().double().softmax(0)
            rows = [torch.autograd.grad(f_c, params, retain_graph=True) for f_c in f]
            J = torch.stack([torch.cat([g.reshape(-1) for g in row]) for row in rows])
            gram = (J @ J.T).double()
            total += float((p * gram.diag()).sum() - p @ gram @ p)
            n += 1
    return total / n


def product(model: torch.nn.Module, batches: list, v: np.ndarray) -> np.ndarray:
    """Hv of the mean loss, by autograd twice."""
    params = list(model.parameters())
    n = sum(len(y) for _, y in batches)
    out = np.zeros(len(v))
    pieces = torch.split(torch.from_numpy(v).float().reshape(-1), [p.numel() for p in params])
    z = [piece.view_as(p) for piece, p in zip(pieces, params, strict=True)]
    for x, y in batches:
        loss = F.cross_entropy(model(x), y, reduction="sum") / n
        g = torch.autograd.grad(loss, params, create_graph=True)
        Hz = torch.autograd.grad(g, params, z)
        out += torch.cat([h.reshape(-1) for h in Hz]).double().numpy()
    return out


def pyhessian_eigmax(model: torch.nn.Module, batches: list, tol: float) -> float:
    """PyHessian's power iteration to a tolerance far below its default."""
    from pyhessian import hessian

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asked = hessian(model, torch.nn.CrossEntropyLoss(), dataloader=batches, cuda=False)
        values, _ = asked.eigenvalues(maxIter=200, tol=tol)
    return float(values[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("cifar")
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    data = datasets.load(f"cifar10:{args.cifar}", "test")
    data = choose(data, examples=args.examples, generator=torch.Generator().manual_seed(0))
    batches = list(fixed(data, 128))
    model = models.build("resnet20:shortcut=B", input_shape=data.input_shape, classes=10)
    load_weights(model, load_checkpoint(args.checkpoint).weights)
    model.eval()
    n = sum(p.numel() for p in model.parameters())
    found = {"examples": len(data), "data_hash": data.hash}
    for name, compute in {
        "trace_exact": lambda: exact_trace(model, batches),
        "eigmax_eigsh": lambda: float(
            eigsh(
                LinearOperator((n, n), matvec=lambda v: product(model, batches, v), dtype=float),
                k=1,
                which="LA",
                tol=1e-6,
                return_eigenvectors=False,
            )[0]
        ),
        "eigmax_pyhessian_tol_1e-5": lambda: pyhessian_eigmax(model, batches, 1e-5),
    }.items():
        start = time.perf_counter()
        found[name] = compute()
        found[f"{name}_seconds"] = round(time.perf_counter() - start, 1)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
