"""What every optimizer here promises, whatever the loop around it."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from curvature.optimizers import SAM, SASAM, SASGD, SGD, closure
from tests.optimizers.networks import (
    RUN_IDS,
    RUNS,
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
def test_a_plain_loop_lowers_the_loss(run: tuple[str, str]) -> None:
    model = network(dropout=0.0)
    optimizer = named(run, model)
    inputs, targets = batch()

    def plain() -> Tensor:  # what the torch documentation shows
        optimizer.zero_grad()
        loss = cross_entropy(model(inputs), targets)
        loss.backward()
        return loss

    losses = [float(optimizer.step(plain)) for _ in range(60)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("run", "gradients"), list(zip(RUNS[:6], (1, 1, 1, 2, 2, 3), strict=True)), ids=RUN_IDS[:6]
)
def test_a_step_costs_as_many_gradients_as_its_report_says(
    run: tuple[str, str], gradients: int
) -> None:
    model = network()
    optimizer = named(run, model)
    step(optimizer, model)
    calls = []
    run_closure = closure(model, cross_entropy, [batch(1)])
    optimizer.step(lambda: calls.append(1) or run_closure())
    assert len(calls) == gradients == optimizer.last_step.gradients


def test_the_report_names_what_set_eta() -> None:
    model = network()
    optimizer = SASAM(model.parameters(), lr=0.01)
    assert optimizer.last_step is None
    step(optimizer, model)
    first = optimizer.last_step
    assert (first.active, first.eta, first.theta, first.rho) == ("first", 0.01, math.inf, 0.1)
    step(optimizer, model, 1)
    second = optimizer.last_step
    assert second.active == "smoothness"
    assert second.theta == second.eta / first.eta
    assert second.rho == math.sqrt(second.eta)
    assert second.eta == optimizer.param_groups[0]["lr"]


def test_the_report_has_the_gradient_norm_before_clipping() -> None:
    model = network(dropout=0.0)
    inputs, targets = batch()
    gradient = torch.autograd.grad(cross_entropy(model(inputs), targets), list(model.parameters()))
    norm = torch.cat([g.reshape(-1) for g in gradient]).norm().item()
    optimizer = SGD(model.parameters(), lr=0.1, clip_norm=norm / 10)
    step(optimizer, model)
    assert optimizer.last_step.gradient_norm == pytest.approx(norm, rel=1e-5)


class Syncs(TorchDispatchMode):
    """Counts the reads of a tensor's value by the host."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func._schema.name in ("aten::_local_scalar_dense", "aten::item")
        return func(*args, **(kwargs or {}))


def syncs_of_a_step(make: Callable[[Any], Any], parameters: int) -> int:
    weights = [nn.Parameter(torch.full((2,), 1.0 + i)) for i in range(parameters)]
    optimizer = make(weights)

    def loss() -> Tensor:
        total = sum((p**2).sum() for p in weights)
        total.backward()
        return total

    optimizer.step(loss)
    with Syncs() as syncs:
        optimizer.step(loss)
    return syncs.count


@pytest.mark.parametrize(
    ("make", "most"),
    [
        (lambda w: SGD(w, lr=0.1, momentum=0.9, foreach=True, check_finite=False), 0),
        (lambda w: SGD(w, lr=0.1, momentum=0.9, foreach=True, clip_norm=1.0), 1),
        (lambda w: SAM(torch.optim.SGD(w, lr=0.1, foreach=True), check_finite=False), 0),
        (lambda w: SAM(torch.optim.SGD(w, lr=0.1, foreach=True)), 2),
        (lambda w: SASGD(w, lr=0.1), 3),  # ‖g‖, ‖g_{t−1}‖, and ‖Δw‖ with ‖Δg‖
        (lambda w: SASAM(w, lr=0.1), 4),
    ],
    ids=["sgd unchecked", "sgd", "sam unchecked", "sam", "sa-sgd", "sa-sam"],
)
def test_the_host_waits_a_fixed_number_of_times_whatever_the_number_of_parameters(
    make: Callable[[Any], Any], most: int
) -> None:
    few, many = syncs_of_a_step(make, 3), syncs_of_a_step(make, 40)
    assert few == many <= most


@several_passes
@pytest.mark.parametrize("failing_call", [1, 2, 3])
def test_a_closure_that_raises_leaves_weights_and_state_untouched(
    run: tuple[str, str], failing_call: int
) -> None:
    model = network()
    optimizer = named(run, model)
    for number in range(2):
        step(optimizer, model, number)
    weights = flat(model)
    state = copy.deepcopy(optimizer.state_dict())
    inner, calls = closure(model, cross_entropy, [batch(2)]), []

    def failing() -> Tensor:
        calls.append(1)
        loss = inner()
        if len(calls) == failing_call:
            raise KeyboardInterrupt
        return loss

    if failing_call > (3 if run[0] == "sa-sam" else 2):
        optimizer.step(failing)
        return
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(failing)
    assert torch.equal(flat(model), weights)
    assert_same(optimizer.state_dict(), state)


@for_each_run
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_loss_that_is_not_finite_raises_and_leaves_the_weights(
    run: tuple[str, str], bad: float
) -> None:
    model = network()
    optimizer = named(run, model)
    for number in range(2):
        step(optimizer, model, number)
    weights = flat(model)
    passes = {"sam": 2, "sa-sgd": 2, "sa-sam": 3}.get(run[0], 1)
    for spoilt in range(1, passes + 1):
        calls = []

        def spoiling(calls: list[int] = calls, spoilt: int = spoilt) -> Tensor:
            calls.append(1)
            loss = cross_entropy(model(batch(2)[0]), batch(2)[1])
            loss = loss * bad if len(calls) == spoilt else loss
            loss.backward()
            return loss

        with pytest.raises(FloatingPointError, match="weights are as before the step"):
            optimizer.step(spoiling)
        assert torch.equal(flat(model), weights)


def test_the_error_of_a_diverged_step_is_one_line_with_its_numbers() -> None:
    w = nn.Parameter(torch.tensor([1.0]))
    optimizer = SASGD([w], lr=0.1)
    with pytest.raises(FloatingPointError, match=r"^Pass 1 of the step has loss inf") as caught:
        optimizer.step(lambda: backward((w / 0).sum()))
    assert "\n" not in str(caught.value)
