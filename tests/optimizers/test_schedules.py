"""Learning rates from outside, steps without a closure, and what is refused."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from curvature.optimizers import OPTIMIZERS, SAM, SASAM, SASGD, SGD, closure
from tests.optimizers.networks import (
    RUN_IDS,
    RUNS,
    batch,
    cross_entropy,
    flat,
    named,
    network,
    step,
)


@pytest.mark.parametrize("name", ["sgd", "msgd", "adam", "sam"])
@pytest.mark.parametrize("kind", ["cosine", "one cycle"])
def test_schedulers_set_the_rate_of_a_given_eta(name: str, kind: str) -> None:
    model = network()
    optimizer = named((name, "poster"), model, lr=0.1)
    schedulers = torch.optim.lr_scheduler
    if kind == "cosine":
        scheduler = schedulers.CosineAnnealingLR(optimizer, 4)
    elif name == "sgd":  # no momentum to cycle
        scheduler = schedulers.OneCycleLR(optimizer, 0.1, total_steps=5, cycle_momentum=False)
    else:
        scheduler = schedulers.OneCycleLR(optimizer, 0.1, total_steps=5)
    rates = []
    for number in range(4):
        step(optimizer, model, number)
        rates.append(optimizer.last_step.eta)
        scheduler.step()
    reference = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.9)
    other = (
        schedulers.CosineAnnealingLR(reference, 4)
        if kind == "cosine"
        else schedulers.OneCycleLR(reference, 0.1, total_steps=5)
    )
    expected = []
    for _ in range(4):
        expected.append(reference.param_groups[0]["lr"])
        reference.step()
        other.step()
    assert rates == expected


def test_a_scheduler_may_hold_the_base_of_sam() -> None:
    model = network()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(base, 1, gamma=0.5)
    optimizer = SAM(base)
    for number in range(3):
        step(optimizer, model, number)
        scheduler.step()
    assert optimizer.last_step.eta == 0.025


@pytest.mark.parametrize("run", RUNS[4:], ids=RUN_IDS[4:])
def test_a_scheduler_that_would_overwrite_an_adaptive_eta_is_refused(run: tuple[str, str]) -> None:
    model = network()
    optimizer = named(run, model)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    step(optimizer, model)
    scheduler.step()
    weights = flat(model)
    with pytest.raises(ValueError, match=r"`lr` was changed from .* adapts its step size itself"):
        step(optimizer, model, 1)
    assert torch.equal(flat(model), weights)


@pytest.mark.parametrize("run", RUNS[3:6], ids=RUN_IDS[3:6])
def test_a_step_without_a_closure_is_refused_where_it_takes_one(run: tuple[str, str]) -> None:
    model = network()
    with pytest.raises(ValueError, match=r"call `step\(closure\)`"):
        named(run, model).step()


@pytest.mark.parametrize("run", RUNS[:3], ids=RUN_IDS[:3])
def test_a_step_without_a_closure_takes_the_gradients_that_are_there(run: tuple[str, str]) -> None:
    ends = []
    for with_closure in (True, False):
        model = network(dropout=0.0)
        optimizer = named(run, model)
        one = closure(model, cross_entropy, [batch()])
        if with_closure:
            optimizer.step(one)
        else:
            one()
            assert optimizer.step() is None
        ends.append(flat(model))
    assert torch.equal(*ends)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda w: SGD(w, lr=0.1, clip_norm=0.0), "`clip_norm` must be positive"),
        (lambda w: SAM(torch.optim.SGD(w), rho=-1.0), "`rho` must not be negative"),
        (lambda w: SAM(torch.optim.SGD(w), perturbation="both"), "global or local"),
        (lambda w: SASGD(w, lr=0.0), "must be positive"),
        (lambda w: SASGD(w, lr=math.nan), "must be positive"),
        (lambda w: SASGD(w, lr=0.1, weight_decay=-1.0), "must not be negative"),
        (lambda w: SASGD(w, lr=0.1, variant="other"), "poster or released"),
        (lambda w: SASGD(w, lr=0.1, damping=0.0), "`damping` must be positive"),
        (lambda w: SASGD(w, lr=0.1, growth=-1.0), "`growth` must not be negative"),
        (lambda w: SASGD(w, lr=0.1, grow_at_zero=True), "needs a finite `theta0`"),
    ],
)
def test_impossible_settings_are_refused(make: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make([nn.Parameter(torch.ones(1))])


def test_wrong_kinds_are_refused() -> None:
    weights = [nn.Parameter(torch.ones(1))]
    with pytest.raises(TypeError, match="`base` is a list"):
        SAM(weights)
    with pytest.raises(TypeError, match="take no `rho`; their formulas have growth"):
        SASAM(weights, lr=0.1, rho=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_compiled_model_takes_the_same_steps(name: str) -> None:
    ends = []
    for compiled in (False, True):
        model = network()
        trained = torch.compile(model, backend="aot_eager") if compiled else model
        optimizer = named((name, "poster"), model)
        torch.manual_seed(1)
        for number in range(3):
            step(optimizer, trained, number)
        ends.append(torch.cat([flat(model), *(b.reshape(-1).double() for b in model.buffers())]))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-5, atol=1e-6)
