"""Squared norms of each example's weight gradient, from a layer's input and output gradient.

A rule takes the module, its input x and the gradient g by its output, both with the N examples
first, and returns ‖∂/∂weight‖² and ‖∂/∂bias‖² per example (Goodfellow 2015 for a linear layer).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Rule = Callable[[nn.Module, Tensor, Tensor], dict[str, Tensor]]
_AT_A_TIME = 2**22  # numbers in memory at a time for unfolded inputs and weight gradients


def _linear(module: nn.Module, x: Tensor, g: Tensor) -> dict[str, Tensor]:
    n = len(g)
    x, g = x.reshape(n, -1, x.shape[-1]), g.reshape(n, -1, g.shape[-1])
    return {"weight": _of_products(g.mT, x), "bias": _squares(g.sum(1))}


def _convolution(module: nn.Module, x: Tensor, g: Tensor) -> dict[str, Tensor]:
    assert isinstance(module, (nn.Conv1d, nn.Conv2d))
    bias = _squares(g.flatten(2).sum(2))
    dilation, stride, size = module.dilation, module.stride, module.kernel_size
    pads = list(module._reversed_padding_repeated_twice)
    if module.padding_mode != "zeros":
        x, pads = F.pad(x, pads, mode=module.padding_mode), [0] * len(pads)
    if isinstance(module, nn.Conv1d):
        x, g, pads = x.unsqueeze(2), g.unsqueeze(2), [*pads, 0, 0]
        dilation, stride, size = (1, *dilation), (1, *stride), (1, *size)
    n, groups = len(g), module.groups
    x = x.reshape(n * groups, -1, *x.shape[2:])
    g = g.reshape(n * groups, -1, *g.shape[2:])
    K, L = module.weight[0].numel(), g[0, 0].numel()
    if set(stride) == {1} and not _gram_is_cheaper(g.shape[1], L, K):
        weight = _by_offsets(x, g, pads, size, dilation)
    else:
        x = F.pad(x, pads)
        few = max(1, _AT_A_TIME // (K * L))
        weight = torch.cat(
            [
                _of_products(
                    g_few.flatten(2),
                    F.unfold(x_few, size, dilation=dilation, stride=stride)[..., :L].mT,
                )
                for x_few, g_few in zip(torch.split(x, few), torch.split(g, few), strict=True)
            ]
        )
    return {"weight": weight.view(n, groups).sum(1), "bias": bias}


def _by_offsets(
    x: Tensor, g: Tensor, pads: Sequence[int], size: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """One product per kernel position, on x shifted in memory, once g is padded to the rows of x.

    Nothing is unfolded: 2.5 times faster than unfolding on a CPU.
    """
    left, right, top, bottom = pads
    width = left + x.shape[3] + right
    L = g.shape[2] * width
    x = F.pad(x, (left, right, top, bottom + 1)).flatten(2)  # the last shift reads past the end
    g = F.pad(g, (0, width - g.shape[3])).flatten(2).mT
    total = x.new_zeros(len(x))
    for i in range(size[0]):
        for j in range(size[1]):
            start = i * dilation[0] * width + j * dilation[1]
            total += _of_products(x[:, :, start : start + L], g)
    return total


def _batch_norm(module: nn.Module, x: Tensor, g: Tensor) -> dict[str, Tensor]:
    assert isinstance(module, nn.modules.batchnorm._BatchNorm)
    mean, variance = module.running_mean, module.running_var
    assert mean is not None
    assert variance is not None
    x, g = (t.reshape(*t.shape[:2], -1) for t in (x, g))
    bias = g.sum(2)
    weight = ((x * g).sum(2) - mean * bias) * (variance + module.eps) ** -0.5
    return {"weight": _squares(weight), "bias": _squares(bias)}


def _layer_norm(module: nn.Module, x: Tensor, g: Tensor) -> dict[str, Tensor]:
    assert isinstance(module, nn.LayerNorm)
    normal = F.layer_norm(x, module.normalized_shape, eps=module.eps)
    normal, g = (t.reshape(len(g), -1, *module.normalized_shape) for t in (normal, g))
    return {"weight": _squares((normal * g).sum(1)), "bias": _squares(g.sum(1))}


def _group_norm(module: nn.Module, x: Tensor, g: Tensor) -> dict[str, Tensor]:
    assert isinstance(module, nn.GroupNorm)
    normal = F.group_norm(x, module.num_groups, eps=module.eps)
    normal, g = (t.reshape(*t.shape[:2], -1) for t in (normal, g))
    return {"weight": _squares((normal * g).sum(2)), "bias": _squares(g.sum(2))}


def _embedding(module: nn.Module, x: Tensor, g: Tensor) -> dict[str, Tensor]:
    """Rows that a token of the same example shares add up: the Gram matrix where indices agree."""
    assert isinstance(module, nn.Embedding)
    x, g = x.reshape(len(x), -1), g.reshape(len(x), -1, g.shape[-1])
    if module.padding_idx is not None:
        g = g * (x != module.padding_idx)[..., None]
    same = x[:, :, None] == x[:, None, :]
    return {"weight": ((g @ g.mT) * same).sum((1, 2))}


RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm3d: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
}


def rule_of(module: nn.Module) -> Rule | None:
    """The rule for exactly this type of module as it is set; None where there is none."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and (
        module.training or module.running_mean is None
    ):
        return None
    if isinstance(module, nn.Embedding) and (
        module.sparse or module.scale_grad_by_freq or module.max_norm is not None
    ):
        return None
    return RULES.get(type(module))


def _of_products(a: Tensor, b: Tensor) -> Tensor:
    """‖A_i B_i‖² of A (N, p, t) and B (N, t, q), through AᵀA and BBᵀ where t is small."""
    _, p, t = a.shape
    q = b.shape[2]
    if t == 1:
        return _squares(a) * _squares(b)
    if _gram_is_cheaper(p, t, q):
        return ((a.mT @ a) * (b @ b.mT)).sum((1, 2))
    few = max(1, _AT_A_TIME // (p * q))
    return torch.cat(
        [_squares(x @ y) for x, y in zip(torch.split(a, few), torch.split(b, few), strict=True)]
    )


def _gram_is_cheaper(p: int, t: int, q: int) -> bool:
    return t * (p + q) < p * q


def _squares(x: Tensor) -> Tensor:
    """‖x_i‖² over everything but the first dimension."""
    return x.reshape(len(x), -1).square().sum(1)
