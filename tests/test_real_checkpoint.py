"""A checkpoint that this project did not write, on real images, against what shares no code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from curvature_cli.main import main
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn import functional as F

from curvature import datasets, models
from curvature.runs.checkpoint import load_checkpoint, load_weights

IMAGES = 24


@pytest.fixture(scope="module")
def checkpoint(real_data: Path) -> Path:
    return real_data / "checkpoints" / "pyhessian_resnet20_cifar10.pkl"


@pytest.fixture(scope="module")
def network(checkpoint: Path, real_cifar10: Path) -> tuple[nn.Module, Tensor, Tensor]:
    data = datasets.load(f"cifar10:{real_cifar10}", "test")
    model = models.build("resnet20:shortcut=B", input_shape=data.input_shape, classes=10)
    load_weights(model, load_checkpoint(checkpoint).weights)
    few = data.select(slice(0, IMAGES))
    return model.eval(), few.normalized(few.inputs), few.targets


@pytest.fixture(scope="module")
def found(checkpoint: Path, real_cifar10: Path) -> dict[str, dict]:
    args = ["analyze", str(checkpoint), "--model", "resnet20", "--data", f"cifar10:{real_cifar10}"]
    asked = ["--first", str(IMAGES), "--batch-size", "8", "--trace", "--eigmax", "--json"]
    limits = ["--trace-rtol", "0.2"]
    result = CliRunner().invoke(main, [*args, *asked, *limits])
    assert result.exit_code == 0, result.output
    return {row["metric"]: row for row in json.loads(result.stdout)}


@pytest.mark.slow
def test_the_trace_is_within_its_error_of_the_exact_one(
    found: dict[str, dict], network: tuple[nn.Module, Tensor, Tensor]
) -> None:
    """tr(H) = tr(G) for this ReLU network: summed from every logit's gradient of every image."""
    model, x, _ = network
    params = list(model.parameters())
    total = 0.0
    for image in x:
        f = model(image[None])[0]
        p = f.detach().double().softmax(0)
        rows = [torch.autograd.grad(f_c, params, retain_graph=True) for f_c in f]
        J = torch.stack([torch.cat([g.reshape(-1) for g in row]) for row in rows])
        gram = (J @ J.T).double()
        total += float((p * gram.diag()).sum() - p @ gram @ p)
    assert abs(found["trace"]["value"] - total / IMAGES) <= 3 * found["trace"]["standard_error"]


@pytest.mark.slow
def test_the_top_eigenvalue_agrees_with_eigsh(
    found: dict[str, dict], network: tuple[nn.Module, Tensor, Tensor]
) -> None:
    model, x, y = network
    params = list(model.parameters())
    sizes = [p.numel() for p in params]
    gradient = torch.autograd.grad(F.cross_entropy(model(x), y), params, create_graph=True)

    def matvec(v: np.ndarray) -> np.ndarray:
        pieces = torch.from_numpy(v).float().reshape(-1).split(sizes)
        z = [piece.view_as(p) for piece, p in zip(pieces, params, strict=True)]
        Hz = torch.autograd.grad(gradient, params, z, retain_graph=True)
        return torch.cat([h.reshape(-1) for h in Hz]).double().numpy()

    H = LinearOperator((sum(sizes),) * 2, matvec=matvec, dtype=float)
    top = eigsh(H, k=1, which="LA", tol=1e-4, return_eigenvectors=False)[0]
    assert found["eigmax"]["value"] == pytest.approx(top, rel=1e-3)
    assert found["eigmax"]["converged"]
