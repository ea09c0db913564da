"""Loss scaling and clipping in steps of several gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from curvature.optimizers import SAM, SASGD, SGD, closure
from tests.optimizers.networks import RUN_IDS, RUNS, batch, flat, named, network

cross_entropy = nn.functional.cross_entropy
for_each_run = pytest.mark.parametrize("run", RUNS, ids=RUN_IDS)
PASSES = {"sam": 2, "sa-sgd": 2, "sa-sam": 3}


@for_each_run
def test_a_scale_that_is_a_power_of_two_changes_no_bit(run: tuple[str, str]) -> None:
    ends = []
    for scaler in (None, GradScaler("cpu", init_scale=2.0**10)):
        model = network()
        optimizer = named(run, model, grad_scaler=scaler, clip_norm=0.5)
        for number in range(4):
            optimizer.step(closure(model, cross_entropy, [batch(number)], grad_scaler=scaler))
        ends.append(flat(model))
    assert torch.equal(*ends)


@for_each_run
def test_the_scale_grows_once_per_step(run: tuple[str, str]) -> None:
    scaler = GradScaler("cpu", init_scale=4.0, growth_interval=2)
    model = network()
    optimizer = named(run, model, grad_scaler=scaler)
    scales = []
    for number in range(4):
        optimizer.step(closure(model, cross_entropy, [batch(number)], grad_scaler=scaler))
        scales.append(scaler.get_scale())
    assert scales == [4.0, 8.0, 8.0, 16.0]


@for_each_run
def test_an_overflow_in_any_pass_skips_the_step_and_lowers_the_scale_once(
    run: tuple[str, str],
) -> None:
    scaler = GradScaler("cpu", init_scale=64.0)
    model = network()
    optimizer = named(run, model, grad_scaler=scaler)
    for number in range(2):
        optimizer.step(closure(model, cross_entropy, [batch(number)], grad_scaler=scaler))
    for overflowing in range(1, PASSES.get(run[0], 1) + 1):
        weights, scale = flat(model), scaler.get_scale()
        inner, calls = closure(model, cross_entropy, [batch(2)], grad_scaler=scaler), []

        def overflow(inner: Any = inner, calls: Any = calls, which: int = overflowing) -> Tensor:
            calls.append(1)
            loss = inner()
            if len(calls) == which:
                model[0].weight.grad[0, 0] = float("inf")
            return loss

        loss = optimizer.step(overflow)
        assert torch.isfinite(loss)
        assert torch.equal(flat(model), weights)
        assert optimizer.last_step.active == "skipped"
        assert scaler.get_scale() == scale / 2
    optimizer.step(closure(model, cross_entropy, [batch(3)], grad_scaler=scaler))
    assert optimizer.last_step.active != "skipped"
    assert not torch.equal(flat(model), weights)


def test_a_skipped_step_leaves_the_previous_weights_of_sa_sgd() -> None:
    """As if the step had never been tried."""
    ends = []
    for skipped in (False, True):
        scaler = GradScaler("cpu", init_scale=64.0)
        model = network(dropout=0.0)
        optimizer = SASGD(model.parameters(), lr=0.05, grad_scaler=scaler)
        for number in range(4):
            if skipped and number == 2:
                buffers = [b.clone() for b in model.buffers()]
                optimizer.step(lambda: overflowing(model, scaler))  # noqa: B023
                for buffer, kept in zip(model.buffers(), buffers, strict=True):
                    buffer.copy_(kept)
            optimizer.step(closure(model, cross_entropy, [batch(number)], grad_scaler=scaler))
        ends.append(flat(model))
    assert torch.equal(*ends)


def overflowing(model: nn.Module, scaler: GradScaler) -> Tensor:
    loss = cross_entropy(model(batch()[0]), batch()[1])
    (scaler.scale(loss) * float("inf")).backward()
    return loss


def test_a_scaler_that_is_off_is_no_scaler() -> None:
    scaler = GradScaler("cpu", enabled=False)
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1, grad_scaler=scaler)
    optimizer.step(closure(model, cross_entropy, [batch()], grad_scaler=scaler))
    with pytest.raises(FloatingPointError):
        optimizer.step(lambda: overflowing(model, scaler))


def test_one_scaler_for_the_loss_and_another_for_the_step_is_refused() -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="Pass the same to both"):
        optimizer.step(closure(model, cross_entropy, [batch()], grad_scaler=GradScaler("cpu")))


def test_weights_in_float16_are_refused_with_a_scaler() -> None:
    scaler = GradScaler("cpu")
    w = nn.Parameter(torch.ones(2, dtype=torch.float16))
    optimizer = SGD([w], lr=0.1, grad_scaler=scaler)

    def loss() -> Tensor:
        total = w.float().sum()
        scaler.scale(total * 1e-3).backward()
        return total

    with pytest.raises(ValueError, match="Keep the weights in float32"):
        optimizer.step(loss)


# --- clipping ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sgd", "msgd", "adam"])
def test_clipping_is_torchs(name: str) -> None:
    ends = []
    for ours in (True, False):
        model = network(dropout=0.0).eval()  # else a bias before BatchNorm has noise for a gradient
        optimizer = named((name, "poster"), model, clip_norm=0.1 if ours else None)
        for number in range(5):
            one = closure(model, cross_entropy, [batch(number)])
            if ours:
                optimizer.step(one)
            else:
                one()
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                optimizer.step()
        ends.append(flat(model))
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-6)  # torch adds 1e-6 to the norm


@for_each_run
def test_a_gradient_below_the_limit_is_not_clipped(run: tuple[str, str]) -> None:
    ends = []
    for clip_norm in (None, 1e3):
        model = network()
        optimizer = named(run, model, clip_norm=clip_norm)
        for number in range(4):
            optimizer.step(closure(model, cross_entropy, [batch(number)]))
        ends.append(flat(model))
    assert torch.equal(*ends)


def test_both_gradients_of_the_quotient_are_clipped() -> None:
    """L = 2w² from w = 3, clipped to 1: both gradients are 1, their difference is 0."""
    w = nn.Parameter(torch.tensor([3.0], dtype=torch.float64))
    optimizer = SASGD([w], lr=0.1, clip_norm=1.0)

    def loss() -> Tensor:
        value = (2 * w**2).sum()
        value.backward()
        return value

    for expected in (0.1, 0.1, 0.1 * 2**0.5):  # first; nothing known; grown by the cap
        optimizer.step(loss)
        assert optimizer.last_step.eta == pytest.approx(expected, rel=1e-14)
    assert optimizer.last_step.active == "growth"
    assert w.item() == pytest.approx(3 - 0.2 - 0.1 * 2**0.5, rel=1e-14)


def test_the_perturbation_of_sam_has_its_length_whatever_the_clipping() -> None:
    w = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    seen = []

    def loss() -> Tensor:
        seen.append(w.detach().clone())
        value = (w**2).sum()
        value.backward()
        return value

    SAM(torch.optim.SGD([w], lr=1.0), rho=0.5, clip_norm=0.25).step(loss)
    assert (seen[1] - seen[0]).tolist() == pytest.approx([0.3, 0.4])
    assert (seen[0] - w.detach()).norm().item() == pytest.approx(0.25)  # η = 1: what descended
