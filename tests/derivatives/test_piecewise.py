"""ReLU and pooling with derivatives of their own: the same values and products as torch's."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from curvature.derivatives.piecewise import PiecewiseLinear
from curvature.derivatives.products import hessian_product
from tests.conftest import seeded

X = torch.randn(3, 2, 7, 7, generator=seeded(0), dtype=torch.float64)
W = torch.randn(4, 2, 3, 3, generator=seeded(1), dtype=torch.float64)

CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "ReLU": F.relu,
    "of torch": torch.relu,
    "of the tensor": Tensor.relu,
    "module": nn.ReLU(),
    "in place": nn.ReLU(inplace=True),
    "pooling": lambda x: F.max_pool2d(x, 2),
    "pooling by keywords": lambda x: torch.max_pool2d(x, kernel_size=3, stride=2, padding=1),
    "dilated": nn.MaxPool2d((2, 1), stride=1, dilation=2, ceil_mode=True),
    "ReLU and pooling": nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)),
    "overlapping": nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
    "in place and pooling": nn.Sequential(nn.ReLU(inplace=True), nn.MaxPool2d(2)),
    "pooling and ReLU": nn.Sequential(nn.MaxPool2d(2), nn.ReLU()),
    "both used": lambda x: torch.cat([F.max_pool2d(y := F.relu(x), 2).flatten(), y.flatten()]),
    "something between": lambda x: F.max_pool2d(F.relu(x) * x, 2),
    "with indices": lambda x: F.max_pool2d(F.relu(x), 2, return_indices=True)[0],
    "a single image": lambda x: torch.stack([F.max_pool2d(F.relu(image), 2) for image in x]),
    "mostly zeros": lambda x: F.max_pool2d(F.relu(x - 2), 2),
    "channels last": lambda x: F.max_pool2d(
        F.relu(x.contiguous(memory_format=torch.channels_last)), 2
    ),
}
each = pytest.mark.parametrize("function", CASES.values(), ids=CASES)


def value(function: Callable[[Tensor], Tensor], w: Tensor) -> Tensor:
    return function(F.conv2d(X, w)).sin().square().sum()


@each
def test_values_and_both_derivatives_are_those_of_torch(
    function: Callable[[Tensor], Tensor],
) -> None:
    w, v = W.clone().requires_grad_(), W.flip(0)
    expected = value(function, w)
    with PiecewiseLinear():
        found = value(function, w)
    assert torch.equal(found, expected)
    (g,), (expected_g,) = (
        torch.autograd.grad(x, [w], retain_graph=True) for x in (found, expected)
    )
    torch.testing.assert_close(g, expected_g, rtol=1e-12, atol=1e-12)
    (Hv,), (expected_Hv,) = (hessian_product(x, [w], [v]) for x in (found, expected))
    torch.testing.assert_close(Hv, expected_Hv, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ours", [True, False])
def test_no_larger_map_is_kept_where_pooling_follows(ours: bool) -> None:
    x = X.clone().requires_grad_()
    mode = PiecewiseLinear() if ours else nullcontext()
    with mode:
        y = F.relu(1.0 * x)
    larger = weakref.ref(y.untyped_storage())
    with mode:
        y = F.max_pool2d(y, 2)
    assert (larger() is None) == ours
    assert y.requires_grad


def test_what_needs_no_derivative_is_left_to_torch() -> None:
    with PiecewiseLinear():
        assert F.relu(X).grad_fn is None
        assert torch.equal(F.max_pool2d(X, 2), torch.ops.aten.max_pool2d(X, [2, 2]))
