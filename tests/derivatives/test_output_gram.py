"""JJᵀ against the Jacobian written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

from curvature.derivatives import output_gram as room
from curvature.derivatives.output_gram import output_gram
from tests.corpus.case import randn


@pytest.mark.parametrize("at_once", [2**26, 40, 1])
def test_it_is_the_jacobian_times_its_transpose(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_AT_ONCE", at_once)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x = randn(1, 4)
    params = {name: p.detach() for name, p in model.named_parameters()}
    J = torch.cat(
        [
            j.reshape(3, -1)
            for j in jacrev(lambda p: functional_call(model, p, (x,))[0])(params).values()
        ],
        1,
    )
    assert torch.allclose(output_gram(model(x)[0], list(model.parameters())), J @ J.mT)


def test_outputs_that_depend_on_nothing_have_none() -> None:
    assert output_gram(randn(3), [nn.Parameter(randn(2))]).norm() == 0
