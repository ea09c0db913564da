"""Two problems whose gradients are known in NumPy, as models of two parameters in two groups."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Vector = np.ndarray


@dataclass
class Problem:
    """``loss(flat weights, t)`` in torch and ``gradient(flat weights, t)`` in NumPy, t a step."""

    name: str
    start: Vector
    loss: Callable[[Tensor, int], Tensor]
    gradient: Callable[[Vector, int], Vector]
    split: int  # where the second parameter group begins
    eta: float  # an η_0 from which both terms of the min get their turn


class Training:
    """A problem with its two parameters, and the closure of step t."""

    def __init__(self, problem: Problem, dtype: torch.dtype = torch.float64) -> None:
        self.problem = problem
        start = torch.tensor(problem.start, dtype=dtype)
        self.weights = [
            torch.nn.Parameter(start[: problem.split].clone()),
            torch.nn.Parameter(start[problem.split :].clone()),
        ]
        self.calls: list[Vector] = []  # where each closure call found the weights
        self.t = 0

    @property
    def groups(self) -> list[dict[str, list[Tensor]]]:
        return [{"params": [p]} for p in self.weights]

    @property
    def w(self) -> Vector:
        return torch.cat([p.detach() for p in self.weights]).double().numpy().copy()

    def closure(self) -> Tensor:
        self.calls.append(self.w)
        loss = self.problem.loss(torch.cat(list(self.weights)), self.t)
        loss.backward()
        return loss


def quadratic() -> Problem:
    rng = np.random.default_rng(0)
    Q, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    A = (Q * np.geomspace(0.1, 10.0, 8)) @ Q.T
    A = (A + A.T) / 2
    b = rng.normal(size=8)
    A_torch, b_torch = torch.tensor(A), torch.tensor(b)

    def loss(w: Tensor, t: int) -> Tensor:
        return 0.5 * w @ A_torch.to(w.dtype) @ w - b_torch.to(w.dtype) @ w

    return Problem("quadratic", rng.normal(size=8), loss, lambda w, t: A @ w - b, 5, 0.15)


def logistic_regression() -> Problem:
    """Mini-batches of 16 out of 64 examples, in an order fixed by the step."""
    rng = np.random.default_rng(1)
    X = np.concatenate([rng.normal(size=(64, 6)), np.ones((64, 1))], axis=1)
    y = np.sign(X @ rng.normal(size=7) + rng.normal(size=64))
    X_torch, y_torch = torch.tensor(X), torch.tensor(y)

    def rows(t: int) -> Vector:
        return np.random.default_rng(100 + t).permutation(64)[:16]

    def loss(w: Tensor, t: int) -> Tensor:
        i = torch.tensor(rows(t))
        margins = y_torch[i].to(w.dtype) * (X_torch[i].to(w.dtype) @ w)
        return torch.nn.functional.softplus(-margins).mean()

    def gradient(w: Vector, t: int) -> Vector:
        i = rows(t)
        margins = y[i] * (X[i] @ w)
        return -(X[i] * (y[i] / (1 + np.exp(margins)))[:, None]).mean(axis=0)

    return Problem("logistic regression", rng.normal(size=7), loss, gradient, 6, 6.0)


PROBLEMS = (quadratic(), logistic_regression())
