"""A convolution with derivatives of its own: values by torch, derivatives by differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from curvature.derivatives.convolution import convolution
from tests.conftest import seeded

GEOMETRIES = {
    "1d": ((2, 3, 7), (4, 3, 3), {}),
    "2d": ((2, 3, 5, 4), (4, 3, 3, 3), {}),
    "3d": ((2, 2, 3, 4, 3), (3, 2, 2, 2, 2), {}),
    "padded, of stride 2": ((2, 3, 6, 5), (2, 3, 3, 3), {"padding": [1, 2], "stride": [2, 2]}),
    "1×1 of stride 2": ((2, 3, 5, 5), (4, 3, 1, 1), {"stride": [2, 2]}),
    "dilated": ((1, 2, 7, 7), (2, 2, 3, 3), {"dilation": [2, 2]}),
    "in groups": ((2, 4, 4, 4), (6, 2, 3, 3), {"groups": 2, "padding": [1, 1]}),
    "depthwise": ((2, 3, 4, 4), (3, 1, 3, 3), {"groups": 3}),
}
each = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)


def arguments(geometry: Any, *, bias: bool) -> tuple[list[Tensor], list[Any]]:
    x, w, options = geometry
    dims = len(x) - 2
    tensors = [
        torch.randn(s, generator=seeded(i), dtype=torch.float64) for i, s in enumerate((x, w))
    ]
    if bias:
        tensors.append(torch.randn(w[0], generator=seeded(2), dtype=torch.float64))
    rest = [
        options.get("stride", [1] * dims),
        options.get("padding", [0] * dims),
        options.get("dilation", [1] * dims),
        options.get("groups", 1),
    ]
    return [t.requires_grad_() for t in tensors], rest


def call(rest: list[Any]) -> Any:
    return lambda x, w, b=None: convolution(x, w, b, *rest)


@each
@pytest.mark.parametrize("bias", [False, True])
def test_its_values_are_those_of_torch(geometry: Any, bias: bool) -> None:
    (x, w, *b), rest = arguments(geometry, bias=bias)
    theirs = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.ndim]
    assert torch.equal(call(rest)(x, w, *b), theirs(x, w, *b or [None], *rest))


@each
@pytest.mark.parametrize("bias", [False, True])
def test_both_derivatives_are_those_of_differences(geometry: Any, bias: bool) -> None:
    tensors, rest = arguments(geometry, bias=bias)
    assert torch.autograd.gradcheck(call(rest), tensors)
    assert torch.autograd.gradgradcheck(call(rest), tensors)


@pytest.mark.parametrize("differentiated", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("groups", ["2d", "in groups"])
def test_by_some_of_its_arguments_alone(differentiated: tuple[int, ...], groups: str) -> None:
    tensors, rest = arguments(GEOMETRIES[groups], bias=True)
    for i, t in enumerate(tensors):
        t.requires_grad_(i in differentiated)
    assert torch.autograd.gradgradcheck(call(rest), tensors)


def test_the_third_derivative_is_right_too() -> None:
    tensors, rest = arguments(GEOMETRIES["1d"], bias=False)

    def gradient(x: Tensor, w: Tensor) -> Any:
        y = call(rest)(x, w).square().sum()
        return torch.autograd.grad(y, (x, w), create_graph=True)

    assert torch.autograd.gradgradcheck(gradient, tensors)


@each
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_scaled_it_is_that_of_the_weight_times_the_scale(
    geometry: Any, bias: bool, apart: bool
) -> None:
    (x, w, *b), rest = arguments(geometry, bias=bias)
    s = torch.randn(len(w), generator=seeded(3), dtype=torch.float64)
    s[0] = 0.0  # as where a residual branch starts
    tensors = [x, w, s.requires_grad_(), *b]

    def scaled(x: Tensor, w: Tensor, s: Tensor, b: Tensor | None = None) -> Tensor:
        return convolution(x, w, b, *rest, scale=s, apart=apart)

    along = s.view(-1, *[1] * (w.ndim - 1))
    torch.testing.assert_close(scaled(*tensors), call(rest)(x, w * along, *b))
    assert torch.autograd.gradcheck(scaled, tensors)
    assert torch.autograd.gradgradcheck(scaled, tensors)


@pytest.mark.parametrize("apart", [False, True])
def test_apart_the_gradient_by_the_input_has_no_path_to_it(apart: bool) -> None:
    (x, w), rest = arguments(GEOMETRIES["2d"], bias=False)
    y = convolution(x, w, None, *rest, apart=apart)
    by_x = torch.autograd.grad(y, (x, w), torch.ones_like(y), create_graph=True)[0]
    assert leads_to(by_x, w)
    assert leads_to(by_x, x) != apart


def leads_to(y: Tensor, leaf: Tensor) -> bool:
    nodes = [y.grad_fn]
    for node in nodes:
        nodes += [after for after, _ in node.next_functions if after and after not in nodes]
    return any(getattr(node, "variable", None) is leaf for node in nodes)
