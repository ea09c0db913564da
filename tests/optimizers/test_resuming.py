"""A state dict, a copy: they go on like the original, bit by bit."""

import copy
from typing import Any

import torch
from torch import nn

from curvature.optimizers import SAM, Adam
from tests.optimizers.networks import (
    assert_same,
    backward,
    batch,
    cross_entropy,
    flat,
    for_each_run,
    named,
    network,
    several_passes,
    step,
)


@for_each_run
def test_a_resumed_run_is_bit_identical(run: tuple[str, str], tmp_path: Any) -> None:
    model = network()
    optimizer = named(run, model)
    for number in range(4):
        step(optimizer, model, number)
    path = tmp_path / "state.pt"
    torch.save(
        {"m": model.state_dict(), "o": optimizer.state_dict(), "r": torch.get_rng_state()}, path
    )
    for number in range(4, 8):
        step(optimizer, model, number)

    saved = torch.load(path, weights_only=True)
    resumed_model = network(seed=1)
    resumed = named(run, resumed_model, lr=0.9)
    resumed_model.load_state_dict(saved["m"])
    resumed.load_state_dict(saved["o"])
    torch.set_rng_state(saved["r"])
    for number in range(4, 8):
        step(resumed, resumed_model, number)
    assert resumed.last_step == optimizer.last_step
    assert_same(resumed_model.state_dict(), model.state_dict())
    assert_same(resumed.state_dict(), optimizer.state_dict())


@several_passes
def test_a_resumed_run_in_half_precision_is_bit_identical(run: tuple[str, str]) -> None:
    """Torch casts loaded state to the weights' dtype, which w_{t−1} survives."""
    inputs, targets = batch()
    models = [nn.Linear(6, 3).bfloat16() for _ in range(2)]
    optimizers = [named(run, model) for model in models]

    def train(i: int) -> None:
        for _ in range(3):
            optimizers[i].step(
                lambda: backward(cross_entropy(models[i](inputs.bfloat16()).float(), targets))
            )

    train(0)
    models[1].load_state_dict(models[0].state_dict())
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    train(0)
    train(1)
    assert torch.equal(flat(models[0]), flat(models[1]))


def test_sam_keeps_the_moments_of_its_base() -> None:
    model = network()
    optimizer = SAM(torch.optim.Adam(model.parameters()))
    step(optimizer, model)
    state = optimizer.state_dict()["state"]
    assert all({"exp_avg", "exp_avg_sq", "step"} <= set(entry) for entry in state.values())


def test_the_state_of_a_wrapped_optimizer_is_torchs_own() -> None:
    model = network()
    ours = Adam(model.parameters(), lr=0.01)
    step(ours, model)
    theirs = torch.optim.Adam(model.parameters())
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    step(ours, model)


@for_each_run
def test_a_copy_goes_on_like_the_original(run: tuple[str, str]) -> None:
    model = network(dropout=0.0)
    optimizer = named(run, model, clip_norm=0.5)
    for number in range(2):
        step(optimizer, model, number)
    other, twin = copy.deepcopy((model, optimizer))
    for number in range(2, 4):
        step(optimizer, model, number)
        step(twin, other, number)
    assert torch.equal(flat(model), flat(other))
