"""What every optimizer here promises, whatever the loop around it."""

import copy
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from curvature.optimizers import OPTIMIZERS, SAM, SASAM, SASGD, SGD, Adam, closure
from tests.optimizers.networks import RUN_IDS, RUNS, batch, flat, named, network

cross_entropy = nn.functional.cross_entropy
for_each_run = pytest.mark.parametrize("run", RUNS, ids=RUN_IDS)
several_passes = pytest.mark.parametrize("run", RUNS[3:], ids=RUN_IDS[3:])


def step(optimizer: Any, model: nn.Module, number: int = 0) -> Any:
    return optimizer.step(closure(model, cross_entropy, [batch(number)]))


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


def backward(loss: Tensor) -> Tensor:
    loss.backward()
    return loss


# --- degenerate steps -------------------------------------------------------------------------


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


# --- precision ---------------------------------------------------------------------------------


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


# --- resuming ----------------------------------------------------------------------------------


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


def assert_same(a: Any, b: Any) -> None:
    """Equal, tensors bitwise."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        for left, right in zip(a, b, strict=True):
            assert_same(left, right)
    elif isinstance(a, Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


# --- schedulers, and what is refused -----------------------------------------------------------


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
