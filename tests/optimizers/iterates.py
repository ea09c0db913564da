"""The steps of all six optimizers in NumPy, on a flat vector, from their formulas alone."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Vector = np.ndarray
Gradient = Callable[[Vector], Vector]
DECAY = 0.01
LR = 0.05
RHO = 0.05


@dataclass
class Memory:
    """What a step needs besides w_t."""

    lr: float = LR
    w_before: Vector | None = None
    eta: list[float] = field(default_factory=list)  # one for each block
    theta: list[float] = field(default_factory=list)
    v: Vector | float = 0.0
    m: Vector | float = 0.0
    t: int = 0


def unit(g: Vector) -> Vector:
    norm = np.sqrt(np.sum(g**2))
    return g / norm if norm > 0 else np.zeros_like(g)


def sgd(w: Vector, grad: Gradient, memory: Memory) -> Vector:
    return w - LR * (grad(w) + DECAY * w)


def msgd(w: Vector, grad: Gradient, memory: Memory) -> Vector:
    memory.v = 0.9 * memory.v + grad(w) + DECAY * w
    return w - LR * memory.v


def adam(w: Vector, grad: Gradient, memory: Memory) -> Vector:
    g = grad(w) + DECAY * w
    memory.t += 1
    memory.m = 0.9 * memory.m + 0.1 * g
    memory.v = 0.999 * memory.v + 0.001 * g**2
    m_hat = memory.m / (1 - 0.9**memory.t)
    v_hat = memory.v / (1 - 0.999**memory.t)
    return w - LR * m_hat / (np.sqrt(v_hat) + 1e-8)


def sam(w: Vector, grad: Gradient, memory: Memory) -> Vector:
    g = grad(w + RHO * unit(grad(w)))
    memory.v = 0.9 * memory.v + g + DECAY * w
    return w - LR * memory.v


def asam(w: Vector, grad: Gradient, memory: Memory) -> Vector:
    g = grad(w)
    epsilon = RHO * w**2 * g / np.sqrt(np.sum((w * g) ** 2))
    memory.v = 0.9 * memory.v + grad(w + epsilon) + DECAY * w
    return w - LR * memory.v


def poster_eta(w: Vector, grad: Gradient, memory: Memory) -> float:
    if memory.w_before is None:
        return memory.lr
    dw = np.linalg.norm(w - memory.w_before)
    dg = np.linalg.norm(grad(w) - grad(memory.w_before))
    return min(dw / (2 * dg), np.sqrt(1 + memory.theta[0]) * memory.eta[0])


def released_etas(w: Vector, grad: Gradient, memory: Memory, blocks: list[slice]) -> list[float]:
    etas = []
    for i, block in enumerate(blocks):
        eta, theta = (memory.eta[i], memory.theta[i]) if memory.eta else (memory.lr, 1.0)
        cap = np.sqrt(1 + 0.02 * theta) * eta
        if memory.w_before is None:
            etas.append(cap)
            continue
        dw = np.linalg.norm((w - memory.w_before)[block])
        dg = np.linalg.norm((grad(w) - grad(memory.w_before))[block])
        etas.append(min(dw / dg, cap) + 1e-8)
    return etas


def sa_sgd(w: Vector, grad: Gradient, memory: Memory) -> Vector:
    eta = poster_eta(w, grad, memory)
    return w - eta * (grad(w) + DECAY * w)


def sa_sam(w: Vector, grad: Gradient, memory: Memory) -> Vector:
    eta = poster_eta(w, grad, memory)
    return w - eta * (grad(w + np.sqrt(eta) * unit(grad(w))) + DECAY * w)


def released_sa_sgd(w: Vector, grad: Gradient, memory: Memory, blocks: list[slice]) -> Vector:
    etas = released_etas(w, grad, memory, blocks)
    return w - spread(etas, w, blocks) * (grad(w) + DECAY * w)


def released_sa_sam(w: Vector, grad: Gradient, memory: Memory, blocks: list[slice]) -> Vector:
    etas = released_etas(w, grad, memory, blocks)
    before = memory.eta or [memory.lr] * len(blocks)
    rho = np.sqrt(spread(before, w, blocks))
    g = grad(w)
    climbed = w + rho * g / (np.linalg.norm(g) + 1e-8)
    return w - spread(etas, w, blocks) * (grad(climbed) + DECAY * w)


def spread(values: list[float], w: Vector, blocks: list[slice]) -> Vector:
    each = np.empty_like(w)
    for value, block in zip(values, blocks, strict=True):
        each[block] = value
    return each
