"""A physics-informed network: the loss has the second derivative of u by the inputs.

u'' = −π² sin(πx) on [0, 1], u(0) = u(1) = 0, whose solution is sin(πx).

python examples/physics_informed.py
"""

import torch
from torch import nn

import curvature


def derivative(u: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(u.sum(), x, create_graph=True)[0]


def loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """(u'' + π² sin(πx))², with the boundary values built into u = x(1 − x) · model(x)."""
    x = x.detach().requires_grad_()
    u = x * (1 - x) * model(x)
    residual = derivative(derivative(u, x), x) + torch.pi**2 * torch.sin(torch.pi * x)
    return residual.square().mean()


torch.set_default_dtype(torch.float64)  # of four derivatives in a row, float32 keeps few digits
model = nn.Sequential(nn.Linear(1, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 1))
x = torch.linspace(0, 1, 64)[:, None]
optimizer = torch.optim.LBFGS(model.parameters(), max_iter=100, line_search_fn="strong_wolfe")


def closure() -> torch.Tensor:
    optimizer.zero_grad()
    value = loss(model, x)
    value.backward()
    return value


optimizer.step(closure)

H = curvature.hessian(model, loss, [x])  # a loss whose first parameter is `model` gets each batch
print(f"loss {H.risk.value:.3g}, {H.size} parameters")
print("Tr(H) =", curvature.trace(H, rtol=0.05))
print("λ_max =", curvature.eigmax(H))
