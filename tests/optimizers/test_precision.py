"""Half precision around and in the weights; what has no place in a norm."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from curvature.optimizers import SGD, closure
from tests.optimizers.networks import (
    backward,
    batch,
    cross_entropy,
    flat,
    for_each_run,
    named,
    network,
    several_passes,
)


@several_passes
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_are_put_back_bitwise_and_trained(
    run: tuple[str, str], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 3).to(dtype)
    optimizer = named(run, model, lr=0.05)
    inputs, targets = batch()
    found = []

    def loss() -> Tensor:
        found.append(flat(model))
        return backward(cross_entropy(model(inputs.to(dtype)).float(), targets))

    ends = []
    for _ in range(10):
        optimizer.step(loss)
        ends.append(flat(model))
    at_present = [at for at in found if any(torch.equal(at, end) for end in ends[:-1])]
    assert len(at_present) >= 9  # each step began where the last one ended
    assert cross_entropy(model(inputs.to(dtype)).float(), targets) < 1.0
    if run[0].startswith("sa-"):
        assert optimizer.state[model.weight]["previous"].dtype == torch.float32


@for_each_run
def test_an_outer_autocast_does_not_hide_the_moved_weights(run: tuple[str, str]) -> None:
    """Autocast caches the casts of weights; within it, w + ε would be evaluated at w."""
    ends = []
    for inside in (False, True):
        model = network(dropout=0.0)
        optimizer = named(run, model)
        for number in range(3):
            one = closure(model, cross_entropy, [batch(number)], autocast=torch.bfloat16)
            with torch.autocast("cpu", dtype=torch.bfloat16) if inside else nullcontext():
                optimizer.step(one)
        ends.append(flat(model))
    assert torch.equal(*ends)


def test_a_sparse_gradient_is_refused_with_the_remedy() -> None:
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = SGD(embedding.parameters(), lr=0.1)
    with pytest.raises(TypeError, match="sparse=False"):
        optimizer.step(lambda: backward(embedding(torch.tensor([1])).sum()))
