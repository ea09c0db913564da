"""A model with two heads and a loss for each: outputs and targets in mappings, losses added up.

python examples/several_heads.py
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import curvature


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 8), nn.ReLU())
        self.digit, self.ink = nn.Linear(8, 4), nn.Linear(8, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        hidden = self.body(images)
        return {"digit": self.digit(hidden), "ink": self.ink(hidden)[:, 0]}


def loss(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    """Gets what the model returned, and the targets as they are."""
    digit = F.cross_entropy(outputs["digit"], targets["digit"])
    return digit + 10 * F.mse_loss(outputs["ink"], targets["ink"])


images, digits = (torch.as_tensor(array) for array in load_digits(n_class=4, return_X_y=True))
images = images.float() / 16
targets = {"digit": digits, "ink": images.mean(1)}
model = TwoHeads()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for _ in range(200):
    optimizer.zero_grad()
    loss(model(images), targets).backward()
    optimizer.step()

H = curvature.hessian(model, loss, (images, targets))
print("Tr(H) =", curvature.trace(H, rtol=0.1))
print("λ_max =", curvature.eigmax(H))
body = curvature.hessian(model, loss, (images, targets), params="body.*")
print("λ_max of the body alone =", curvature.eigmax(body))
