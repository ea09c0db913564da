"""The curvature of one's own model, loss and data, from Python.

python examples/own_model.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import curvature

images, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
inputs = images.float() / 16
for _ in range(200):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(inputs), labels).backward()
    optimizer.step()

H = curvature.hessian(model, nn.CrossEntropyLoss(), (inputs, labels))
trace, top, bottom = curvature.trace(H), curvature.eigmax(H), curvature.eigmin(H, rtol=0.05)
print(f"Tr(H) = {trace.value:.4g} ± {trace.standard_error:.2g}  ({trace.method})")
print(f"λ_max = {top.value:.5g}, residual {top.residual:.1g}, after {top.products} products")
print(f"λ_min = {bottom.value:.3g}, residual {bottom.residual:.1g}")
