"""A regression, by squared error and by a loss of one's own with an error for each example.

python examples/regression.py
"""

import torch
from sklearn.datasets import load_diabetes
from torch import nn

import curvature

inputs, targets = (torch.as_tensor(array).float() for array in load_diabetes(return_X_y=True))
inputs, targets = 20 * inputs, ((targets - targets.mean()) / targets.std())[:, None]


def student(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """One number per example: heavy tails, so that outliers pull less than squared ones."""
    return torch.log1p((outputs - targets).square() / 4).mul(2.5).flatten()


model = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for _ in range(200):
    optimizer.zero_grad()
    nn.functional.mse_loss(model(inputs), targets).backward()
    optimizer.step()

for loss in ("mse", student):
    H = curvature.hessian(model, loss, (inputs, targets))
    print(f"{H.risk.loss.name}: loss {H.risk.value:.4f}")
    print("Tr(H) =", curvature.trace(H, rtol=0.05))
    print("λ_max =", curvature.eigmax(H))
