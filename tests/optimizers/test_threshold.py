"""The edge of stability, against the steps themselves on a quadratic."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from curvature.optimizers import SAM, SASGD, build, stability_threshold

Make = Callable[[list[nn.Parameter]], Optimizer]

CONTRACTING: dict[str, Make] = {
    "sgd": lambda w: torch.optim.SGD(w, lr=0.1),
    "heavy ball": lambda w: torch.optim.SGD(w, lr=0.1, momentum=0.9),
    "dampened": lambda w: torch.optim.SGD(w, lr=0.1, momentum=0.8, dampening=0.5),
    "nesterov": lambda w: torch.optim.SGD(w, lr=0.1, momentum=0.9, nesterov=True),
    "weight decay": lambda w: torch.optim.SGD(w, lr=0.1, momentum=0.5, weight_decay=3.0),
    "our sgd": lambda w: build("sgd", w, lr=0.1),
    "our msgd": lambda w: build("msgd", w, lr=0.1, weight_decay=1.0),
}


def grows(make: Make, curvature: float) -> bool:
    """Whether 600 steps on ½ curvature w² lead away from 0."""
    w = nn.Parameter(torch.ones((), dtype=torch.float64))
    optimizer = make([w])
    for _ in range(600):
        optimizer.zero_grad()
        (0.5 * curvature * w**2).backward()
        optimizer.step()
    return abs(float(w.detach())) > 1


@pytest.mark.parametrize("make", CONTRACTING.values(), ids=CONTRACTING)
def test_steps_contract_below_the_threshold_and_grow_above(make: Make) -> None:
    threshold = stability_threshold(make([nn.Parameter(torch.ones(()))]))
    assert threshold is not None
    assert not grows(make, 0.98 * threshold.value)
    assert grows(make, 1.02 * threshold.value)


NONE: dict[str, Make] = {
    "adam": lambda w: torch.optim.Adam(w, lr=0.1),
    "rmsprop": lambda w: torch.optim.RMSprop(w, lr=0.1),
    "our adam": lambda w: build("adam", w, lr=0.1),
    "sam over adam": lambda w: SAM(torch.optim.AdamW(w, lr=0.1)),
    "no step": lambda w: torch.optim.SGD(w, lr=0.0),
    "ascending": lambda w: torch.optim.SGD(w, lr=0.1, maximize=True),
    "two rates": lambda w: torch.optim.SGD(
        [{"params": w}, {"params": [nn.Parameter(torch.ones(2))], "lr": 0.2}], lr=0.1
    ),
}


@pytest.mark.parametrize("make", NONE.values(), ids=NONE)
def test_where_one_number_does_not_say_it_there_is_none(make: Make) -> None:
    assert stability_threshold(make([nn.Parameter(torch.ones(()))])) is None


def test_of_several_decays_the_smallest_is_taken_off() -> None:
    groups: Any = [
        {"params": [nn.Parameter(torch.ones(2))], "weight_decay": 0.5},
        {"params": [nn.Parameter(torch.ones(2))], "weight_decay": 0.25},
    ]
    found = stability_threshold(torch.optim.SGD(groups, lr=0.1))
    assert found is not None
    assert (found.value, found.formula) == (pytest.approx(19.75), "2/η - weight decay")


def test_the_adaptive_step_size_is_the_present_one() -> None:
    w = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = SASGD([w], lr=0.05)

    def closure() -> torch.Tensor:
        loss = (torch.tensor([0.5, 3.0]) * w**2).sum()
        loss.backward()
        return loss

    for _ in range(4):
        optimizer.step(closure)
    found = stability_threshold(optimizer)
    assert found is not None
    assert optimizer.last_step is not None
    assert found.value == pytest.approx(2 / optimizer.last_step.eta)
    assert found.value != pytest.approx(2 / 0.05)


@pytest.mark.parametrize("name", ["sam", "sa-sam"])
def test_an_ascent_makes_it_an_upper_bound_and_that_is_said(name: str) -> None:
    w = [nn.Parameter(torch.ones(2))]
    found = stability_threshold(build(name, w, lr=0.1))
    assert found is not None
    assert found.value == pytest.approx({"sam": 38.0, "sa-sam": 20.0}[name])
    assert "without the ascent" in found.formula
    plain = stability_threshold(build("sam", w, lr=0.1, rho=0.0))
    assert plain is not None
    assert plain.formula == "2(1+μ)/η"
