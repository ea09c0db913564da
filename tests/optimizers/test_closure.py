"""One mini-batch, one set of buffers, one random state in all gradients of a step."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from curvature.optimizers import closure
from tests.optimizers.networks import RUN_IDS, RUNS, batch, flat, named, network

cross_entropy = nn.functional.cross_entropy
several_passes = pytest.mark.parametrize("run", RUNS[3:], ids=RUN_IDS[3:])


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize("run", RUNS, ids=RUN_IDS)
def test_running_statistics_move_once_per_step_as_one_forward_pass_moves_them(
    run: tuple[str, str],
) -> None:
    model = network()
    optimizer = named(run, model)
    for number in range(3):
        twin = network()
        twin.load_state_dict(model.state_dict())
        twin(batch(number)[0])
        optimizer.step(closure(model, cross_entropy, [batch(number)]))
        assert torch.equal(model[1].running_mean, twin[1].running_mean)
        assert torch.equal(model[1].running_var, twin[1].running_var)
        assert int(model[1].num_batches_tracked) == number + 1


def test_statistics_move_in_every_pass_on_request() -> None:
    model = network()
    optimizer = named(("sa-sam", "released"), model)
    for number in range(2):
        optimizer.step(closure(model, cross_entropy, [batch(number)], statistics="every"))
    assert int(model[1].num_batches_tracked) == 2 + 3


@several_passes
def test_nan_weights_of_a_later_pass_do_not_reach_the_statistics(run: tuple[str, str]) -> None:
    model = network()
    inner = closure(model, cross_entropy, [batch()])
    inner()
    kept = [buffer.clone() for buffer in model.buffers()]
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))
    inner()
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), kept, strict=True))


def test_a_buffer_that_enters_the_output_starts_every_pass_from_the_same_value() -> None:
    torch.manual_seed(0)
    model = nn.utils.spectral_norm(nn.Linear(6, 3), n_power_iterations=1)  # u moves in each forward
    one = closure(model, cross_entropy, [batch()])
    assert torch.equal(one(), one())


def test_random_layers_draw_the_same_in_all_passes_of_a_step_and_anew_in_the_next() -> None:
    model = network(dropout=0.5)
    first = closure(model, cross_entropy, [batch()])
    losses = [float(first()) for _ in range(3)]
    state = torch.get_rng_state()
    assert len(set(losses)) == 1
    second = closure(model, cross_entropy, [batch()])
    assert float(second()) != losses[0]
    torch.set_rng_state(state)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=generator_at(state)))


def generator_at(state: Tensor) -> torch.Generator:
    generator = torch.Generator()
    generator.set_state(state)
    return generator


def test_later_passes_leave_the_random_state_where_the_first_left_it() -> None:
    model = network(dropout=0.5)
    one = closure(model, cross_entropy, [batch()])
    one()
    after_first = torch.get_rng_state()
    torch.rand(5)
    elsewhere = torch.get_rng_state()
    one()
    assert torch.equal(torch.get_rng_state(), elsewhere)
    assert not torch.equal(after_first, elsewhere)


def test_a_closure_used_for_several_steps_begins_anew_with_each() -> None:
    model = network()
    optimizer = named(("sam", "poster"), model)
    reused = closure(model, cross_entropy, [batch()])
    losses = [float(optimizer.step(reused)) for _ in range(3)]
    assert int(model[1].num_batches_tracked) == 3
    assert len(set(losses)) == 3


@pytest.mark.parametrize("sizes", [(24,), (12, 12), (10, 10, 4), (1, 23)])
def test_micro_batches_count_by_their_examples(sizes: tuple[int, ...]) -> None:
    model = network(dropout=0.0).double().eval()
    inputs, targets = batch()[0].double(), batch()[1]
    parts = list(zip(inputs.split(sizes), targets.split(sizes), strict=True))
    loss = closure(model, cross_entropy, parts)()
    accumulated = gradient(model)
    model.zero_grad()
    whole = cross_entropy(model(inputs), targets)
    whole.backward()
    torch.testing.assert_close(loss, whole.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(accumulated, gradient(model), rtol=1e-10, atol=1e-14)


def test_a_single_batch_is_the_plain_gradient_bitwise() -> None:
    model = network(dropout=0.0)
    loss = closure(model, cross_entropy, [batch()])()
    ours = gradient(model)
    model.zero_grad()
    whole = cross_entropy(model(batch()[0]), batch()[1])
    whole.backward()
    assert torch.equal(loss, whole.detach())
    assert torch.equal(ours, gradient(model))


def masked(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over what isn't padding, and how much that is."""
    kept = targets >= 0
    losses = cross_entropy(outputs, targets.clamp(min=0), reduction="none")
    return (losses * kept).sum() / kept.sum(), kept.sum()


@pytest.mark.parametrize("padded", [slice(0, 5), slice(0, 12), slice(12, 24), slice(8, 20)])
def test_a_loss_may_bring_its_weight_and_a_part_of_weight_zero_is_skipped(padded: slice) -> None:
    model = network(dropout=0.0).double().eval()
    inputs, targets = batch()[0].double(), batch()[1].clone()
    targets[padded] = -1
    closure(model, masked, list(zip(inputs.split(12), targets.split(12), strict=True)))()
    accumulated = gradient(model)
    model.zero_grad()
    masked(model(inputs), targets)[0].backward()
    torch.testing.assert_close(accumulated, gradient(model), rtol=1e-10, atol=1e-14)


def test_a_loss_of_model_and_batch_takes_batches_of_any_kind() -> None:
    model = network(dropout=0.0)
    parts = [{"x": x, "y": y} for x, y in (batch(0, 8), batch(1, 16))]
    loss = closure(
        model,
        lambda model, part: cross_entropy(model(part["x"]), part["y"]),
        parts,
        batch_loss=True,
    )()
    each = [cross_entropy(model(part["x"]), part["y"]).item() for part in parts]
    assert float(loss) == pytest.approx((8 * each[0] + 16 * each[1]) / 24, rel=1e-5)


@several_passes
def test_a_closure_may_be_wrapped_by_a_framework(run: tuple[str, str]) -> None:
    ends = []
    for wrap in (lambda inner: inner, lambda inner: lambda: inner()):
        model = network()
        optimizer = named(run, model)
        for number in range(3):
            optimizer.step(closure=wrap(closure(model, cross_entropy, [batch(number)])))
        ends.append(torch.cat([flat(model), model[1].running_mean]))
    assert torch.equal(*ends)


def test_batches_of_an_iterator_are_kept_for_the_later_passes() -> None:
    model = network(dropout=0.0)
    one = closure(model, cross_entropy, iter([batch(0), batch(1)]))
    assert torch.equal(one(), one())


def test_bfloat16_autocast_trains_with_norms_and_weights_in_float32() -> None:
    for run in RUNS:
        model = network(dropout=0.0)
        optimizer = named(run, model)
        losses = []
        for _ in range(25):
            losses.append(
                optimizer.step(
                    closure(model, cross_entropy, [batch()], autocast=torch.bfloat16)
                ).item()
            )
        assert losses[-1] < losses[0]
        assert {p.dtype for p in model.parameters()} == {torch.float32}


def with_torch(optimizer: Any, model: nn.Module) -> float:
    return float(optimizer.step(closure(model, cross_entropy, [batch()])))


def test_a_closure_serves_torchs_own_optimizers() -> None:
    ends = []
    for ours in (True, False):
        model = network()
        optimizer = (
            named(("sgd", "poster"), model)
            if ours
            else torch.optim.SGD(model.parameters(), lr=0.05)
        )
        for _ in range(3):
            with_torch(optimizer, model)
        ends.append(flat(model))
    assert torch.equal(*ends)


@pytest.mark.parametrize(
    ("batches", "options", "error", "message"),
    [
        ([], {}, ValueError, "`batches` is empty"),
        (batch(), {}, TypeError, r"write \[\(inputs, targets\)\]"),
        ([batch()], {"statistics": "never"}, ValueError, "once or every"),
    ],
)
def test_what_cannot_be_a_step_is_refused(
    batches: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        closure(network(), cross_entropy, batches, **options)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda outputs, targets: cross_entropy(outputs, targets, reduction="none"), "has shape"),
        (lambda outputs, targets: (cross_entropy(outputs, targets), 0), "have no weight"),
    ],
)
def test_a_loss_without_a_mean_is_refused(loss: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        closure(network(), loss, [batch()])()
    with pytest.raises(ValueError, match=r"return \(mean, weight\)"):
        closure(network(), lambda m, b: m(batch()[0]).sum(), [object()], batch_loss=True)()
