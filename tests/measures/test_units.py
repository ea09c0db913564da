"""How many examples share a probe."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from curvature.measures.units import cut, examples_in_one, sizes
from curvature.operators import hessian
from tests.corpus.case import randn


@pytest.mark.parametrize(("positions", "expected"), [(None, 128), (8, 128), (20, 64), (400, 16)])
def test_the_more_positions_the_fewer_examples(positions: int | None, expected: int) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 3)).double()
    x = randn(4, 6) if positions is None else randn(4, positions, 6)
    H = hessian(model, "mse", (x, torch.zeros(*x.shape[:-1], 3, dtype=x.dtype)))
    assert examples_in_one(H.risk) == expected


def test_units_hold_every_row_of_every_batch_once() -> None:
    units = cut([5, 4], 2)
    assert units == [[[0, 1], [2, 3], [4]], [[0, 1], [2, 3]]]
    assert sizes(units) == [2, 2, 1, 2, 2]
