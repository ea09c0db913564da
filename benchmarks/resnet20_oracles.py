"""Tr(H) and λ_max of a ReLU ResNet-20 by ways that share no code with the estimators.

    python benchmarks/resnet20_oracles.py CHECKPOINT CIFAR_DIR --examples 1000

Tr(H): this network is piecewise linear in each parameter, so tr(H) = tr(G), and tr(G) is summed
exactly from the gradient of every logit of every image: tr(G_i) = Σ_cd Λ_cd ⟨∇f_c, ∇f_d⟩.
λ_max: ``scipy.sparse.linalg.eigsh`` over autograd twice written out, and PyHessian's power
iteration run to a tight tolerance.
"""

import argparse
import json
import time

import torch
from scipy.sparse.linalg import LinearOperator, eigsh

from curvature import datasets, models
from curvature.datasets.batches import choose, fixed
from curvature.runs.checkpoint import load_checkpoint
from curvature.runs.loading import load_weights
from peers import pyhessian_tool
from tables.reference import gauss_newton_trace, product


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
        "trace_exact": lambda: gauss_newton_trace(model, batches),
        "eigmax_eigsh": lambda: float(
            eigsh(
                LinearOperator((n, n), matvec=lambda v: product(model, batches, v), dtype=float),
                k=1,
                which="LA",
                tol=1e-6,
                return_eigenvectors=False,
            )[0]
        ),
        "eigmax_pyhessian_tol_1e-5": lambda: (
            pyhessian_tool.eigmax(model, batches, 0, tol=1e-5).value
        ),
    }.items():
        start = time.perf_counter()
        found[name] = compute()
        found[f"{name}_seconds"] = round(time.perf_counter() - start, 1)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
