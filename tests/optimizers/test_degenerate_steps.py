"""Steps without information, several groups, frozen and unused parameters."""

import math

import pytest
import torch
from torch import Tensor, nn

from curvature.optimizers import SAM, SASGD, SGD
from tests.optimizers.networks import (
    RUN_IDS,
    RUNS,
    backward,
    batch,
    cross_entropy,
    flat,
    for_each_run,
    named,
    network,
    several_passes,
)


@pytest.mark.parametrize("run", RUNS[4:], ids=RUN_IDS[4:])
def test_a_linear_loss_has_no_gradient_difference_and_eta_grows_by_the_cap(
    run: tuple[str, str],
) -> None:
    w = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    optimizer = named(run, nn.ParameterList([w]), lr=0.1)
    etas = []
    for _ in range(3):
        optimizer.step(lambda: backward(w.sum()))
        etas.append(optimizer.last_step.eta)
    if run[1] == "released":
        first = math.sqrt(1.02) * 0.1
        second = math.sqrt(1 + 0.02 * math.sqrt(1.02)) * first
        assert etas[:2] == pytest.approx([first, second], rel=1e-14)
    else:  # at t = 1 both terms are infinite, and η_0 is kept
        assert etas == pytest.approx([0.1, 0.1, math.sqrt(2) * 0.1], rel=1e-14)
    assert optimizer.last_step.active == "growth"


@pytest.mark.parametrize("run", RUNS[3:], ids=RUN_IDS[3:])
def test_a_zero_gradient_moves_nothing_and_divides_by_nothing(run: tuple[str, str]) -> None:
    w = nn.Parameter(torch.zeros(3))
    optimizer = named(run, nn.ParameterList([w]), lr=0.1)
    for _ in range(3):
        optimizer.step(lambda: backward((w**2).sum()))
        assert torch.equal(w.detach(), torch.zeros(3))
    if run[1] == "poster" and run[0] != "sam":  # w_t = w_{t−1}: η is kept, θ is 1
        report = optimizer.last_step
        assert (report.eta, report.theta, report.active) == (0.1, 1.0, "kept")
    if run[1] == "released":
        assert optimizer.last_step.eta > 0.1


def test_step_sizes_outside_of_float32_are_measured_in_float64() -> None:
    """The squares of 1e-25 are 0 in float32; the quotient is 1/(2L) all the same."""
    w = nn.Parameter(torch.tensor([1e-25, 3e-25]))
    optimizer = SASGD([w], lr=0.1)
    for _ in range(2):
        optimizer.step(lambda: backward((w**2).sum() / 2))
    assert optimizer.last_step.eta == pytest.approx(0.5, rel=1e-5)


# --- groups, missing gradients, frozen parameters ----------------------------------------------


def test_each_group_has_its_own_rate_and_decay_where_eta_is_given() -> None:
    weights = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    groups = [{"params": [weights[0]], "lr": 0.5}, {"params": [weights[1]], "weight_decay": 1.0}]
    SGD(groups, lr=0.1).step(lambda: backward(weights[0].sum() + weights[1].sum()))
    assert weights[0].tolist() == [0.5, 0.5]
    assert weights[1].tolist() == pytest.approx([0.8, 0.8])


def test_one_eta_serves_all_groups_of_the_poster_and_each_has_its_decay() -> None:
    weights = [nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2)]
    groups = [{"params": [weights[0]]}, {"params": [weights[1]], "weight_decay": 0.5}]
    optimizer = SASGD(groups, lr=0.1)
    for _ in range(3):
        optimizer.step(lambda: backward(sum(((i + 1) * p**2).sum() for i, p in enumerate(weights))))
    assert len({group["lr"] for group in optimizer.param_groups}) == 1
    released = SASGD([{"params": [p]} for p in weights], lr=1.0, variant="released")
    for _ in range(3):
        released.step(lambda: backward(sum(((i + 1) * p**2).sum() for i, p in enumerate(weights))))
    assert len({group["lr"] for group in released.param_groups}) == 2


def test_groups_that_ask_for_different_etas_are_refused_by_the_poster_only() -> None:
    weights = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    groups = [{"params": [weights[0]], "lr": 0.5}, {"params": [weights[1]]}]
    with pytest.raises(ValueError, match="one step size adapts for all parameters"):
        SASGD([dict(group) for group in groups], lr=0.1)
    SASGD(groups, lr=0.1, variant="released")


@for_each_run
def test_frozen_and_unused_parameters_stay_and_later_thaw(run: tuple[str, str]) -> None:
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(6, 3), nn.Linear(3, 3), nn.Linear(3, 3)])
    used, frozen, _ = model
    frozen.requires_grad_(False)
    before = flat(model)
    optimizer = named(run, model, weight_decay=0.1)

    def forward() -> Tensor:
        return backward(cross_entropy(frozen(used(batch()[0])), batch()[1]))

    for _ in range(3):
        optimizer.step(forward)
    after = flat(model)
    assert torch.equal(before[21:], after[21:])
    assert not torch.equal(before[:21], after[:21])
    frozen.requires_grad_(True)
    optimizer.step(forward)
    assert not torch.equal(after[21:33], flat(model)[21:33])


@pytest.mark.parametrize("run", RUNS[4:], ids=RUN_IDS[4:])
def test_weights_changed_while_frozen_have_no_previous_value_when_thawed(
    run: tuple[str, str],
) -> None:
    weights = nn.ParameterList([nn.Parameter(torch.tensor([1.0, 2.0])) for _ in range(2)])
    optimizer = named(run, weights, lr=0.01)
    seen = []

    def loss() -> Tensor:
        seen.append(weights[1].detach().clone())
        return backward(sum((p**2).sum() for p in weights))

    for _ in range(2):
        optimizer.step(loss)
    weights[1].requires_grad_(False)
    optimizer.step(loss)
    with torch.no_grad():
        weights[1].fill_(7.0)
    weights[1].requires_grad_(True)
    seen.clear()
    optimizer.step(loss)
    assert seen[1].tolist() == [7.0, 7.0]  # the second pass: at w_{t−1}, which it doesn't have


def test_the_eta_of_a_frozen_group_does_not_grow_for_ever() -> None:
    weights = [nn.Parameter(torch.tensor([1.0, 2.0])) for _ in range(2)]
    optimizer = SASGD([{"params": [p]} for p in weights], lr=0.1, variant="released")
    weights[1].requires_grad_(False)
    for _ in range(4):
        optimizer.step(lambda: backward((weights[0] ** 2).sum()))
    etas = [group["lr"] for group in optimizer.param_groups]
    assert etas[1] == math.sqrt(1.02) * 0.1 < etas[0]


@several_passes
def test_a_gradient_that_only_some_passes_have_is_zero_in_the_others(run: tuple[str, str]) -> None:
    model = network(dropout=0.0)
    side = nn.Linear(12, 3)
    both = nn.ModuleList([model, side])
    optimizer = named(run, both)
    for missing in (0, 1, 2):
        calls: list[int] = []

        def loss(calls: list[int] = calls, missing: int = missing) -> Tensor:
            calls.append(1)
            hidden = model[:4](batch()[0])
            outputs = model[4](hidden)
            if len(calls) - 1 != missing:
                outputs = outputs + side(hidden)
            return backward(cross_entropy(outputs, batch()[1]))

        optimizer.step(loss)
        assert torch.isfinite(flat(both)).all()


def test_a_group_added_later_takes_the_present_eta() -> None:
    weights = [nn.Parameter(torch.tensor([1.0, 2.0])) for _ in range(2)]
    optimizer = SASGD(weights[:1], lr=0.1)
    for _ in range(3):
        optimizer.step(lambda: backward((weights[0] ** 2).sum()))
    optimizer.add_param_group({"params": weights[1:]})
    assert optimizer.param_groups[1]["lr"] == optimizer.param_groups[0]["lr"] != 0.1
    optimizer.step(lambda: backward(sum((p**2).sum() for p in weights)))
    sam = SAM(torch.optim.SGD(weights[:1], lr=0.1, momentum=0.9), rho=0.2)
    sam.add_param_group({"params": weights[1:]})
    assert (sam.param_groups[1]["rho"], sam.param_groups[1]["momentum"]) == (0.2, 0.9)


def test_a_group_with_radius_zero_is_not_perturbed() -> None:
    weights = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    groups = [{"params": [weights[0]]}, {"params": [weights[1]], "rho": 0.0}]
    seen = []

    def loss() -> Tensor:
        seen.append([p.detach().clone() for p in weights])
        return backward(sum((p**2).sum() for p in weights))

    SAM(torch.optim.SGD(groups, lr=0.1), rho=0.5).step(loss)
    assert not torch.equal(seen[1][0], seen[0][0])
    assert torch.equal(seen[1][1], seen[0][1])
