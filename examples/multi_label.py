"""Several labels for each example: binary cross-entropy of every label, rare ones weighed up.

python examples/multi_label.py
"""

import torch
from sklearn.datasets import make_multilabel_classification
from torch import nn

import curvature

found = make_multilabel_classification(400, 20, n_classes=5, random_state=0)
inputs, labels = (torch.as_tensor(array).float() for array in found)
inputs = inputs / inputs.std()
loss = nn.BCEWithLogitsLoss(pos_weight=(1 - labels.mean(0)) / labels.mean(0))

model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 5))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for _ in range(200):
    optimizer.zero_grad()
    loss(model(inputs), labels).backward()
    optimizer.step()

H = curvature.hessian(model, loss, (inputs, labels))
print("Tr(H) =", curvature.trace(H))
print("λ_max =", curvature.eigmax(H))
