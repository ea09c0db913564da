"""What holds for every bundled model: shapes, randomness, derivatives, tracing."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from curvature.models import MODELS
from tests.conftest import seeded
from tests.models.cases import CASES, CLASSES, Case, for_each_case


def with_used_statistics(case: Case) -> tuple[nn.Module, Tensor, Tensor]:
    """The model in evaluation mode and float64, its running statistics not the initial ones."""
    model = case.model().double()
    inputs, targets = (t.double() if t.is_floating_point() else t for t in case.batch())
    with torch.no_grad():
        model(inputs)
    return model.eval(), inputs, targets


def gradient(model: nn.Module, inputs: Tensor, targets: Tensor, *, graph: bool = False) -> Tensor:
    loss = nn.functional.cross_entropy(model(inputs), targets)
    parts = torch.autograd.grad(loss, list(model.parameters()), create_graph=graph)
    return torch.cat([part.reshape(-1) for part in parts])


def test_the_cases_cover_every_model() -> None:
    assert {case.spec.partition(":")[0] for case in CASES} | {"hf"} == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_described_in_one_line(name: str) -> None:
    first, *_ = (MODELS[name].__doc__ or "").splitlines()
    assert len(first) > 20


@for_each_case
def test_a_model_gives_a_logit_for_each_class(case: Case) -> None:
    inputs, _ = case.batch()
    outputs = case.model()(inputs)
    assert outputs.shape == (3, CLASSES)
    assert outputs.isfinite().all()
    assert outputs.std(0).min() > 0  # the examples are told apart


@for_each_case
def test_the_double_backward_agrees_with_central_differences(case: Case) -> None:
    model, inputs, targets = with_used_statistics(case)
    w = nn.utils.parameters_to_vector(model.parameters()).detach()
    v = torch.randn(w.shape, generator=seeded(3), dtype=w.dtype)
    v /= v.norm()
    with sdpa_kernel(SDPBackend.MATH):
        g = gradient(model, inputs, targets, graph=True)
        parts = torch.autograd.grad(g @ v, list(model.parameters()), materialize_grads=True)
        product = torch.cat([part.reshape(-1) for part in parts])
        ends = []
        for sign in (1, -1):
            nn.utils.vector_to_parameters(w + sign * 1e-6 * v, model.parameters())
            ends.append(gradient(model, inputs, targets))
    differences = (ends[0] - ends[1]) / 2e-6
    assert product.norm() > 1e-6
    assert (product - differences).norm() < 1e-5 * product.norm()


@for_each_case
def test_evaluation_is_repeatable_and_each_example_stands_alone(case: Case) -> None:
    model, inputs, _ = with_used_statistics(case)
    with torch.no_grad():
        outputs = model(inputs)
        assert torch.equal(outputs, model(inputs))
        alone = torch.cat([model(x) for x in inputs.split(1)])
    torch.testing.assert_close(outputs, alone)


@for_each_case
def test_the_weights_belong_to_the_seed(case: Case) -> None:
    torch.manual_seed(0)
    first = nn.utils.parameters_to_vector(case.model(seed=1).parameters())
    torch.manual_seed(1)
    again = nn.utils.parameters_to_vector(case.model(seed=1).parameters())
    other = nn.utils.parameters_to_vector(case.model(seed=2).parameters())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@for_each_case
def test_a_copy_loads_the_state_of_its_original(case: Case) -> None:
    original = case.model(seed=1)
    copied = copy.deepcopy(case.model(seed=2))
    copied.load_state_dict(original.state_dict())
    inputs, _ = case.batch()
    assert torch.equal(original(inputs), copied(inputs))


@for_each_case
def test_a_model_can_be_traced(case: Case) -> None:
    # folding BatchNorm into the convolutions needs it
    model, inputs, _ = with_used_statistics(case)
    traced = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(traced(inputs), model(inputs))


@for_each_case
def test_per_example_gradients_can_be_vectorised(case: Case) -> None:
    model, inputs, targets = with_used_statistics(case)
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        outputs = torch.func.functional_call(model, weights, (x[None],))
        return nn.functional.cross_entropy(outputs, y[None])

    rows = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(weights, inputs, targets)
    mean = torch.cat([rows[name].mean(0).reshape(-1) for name in weights])
    torch.testing.assert_close(mean, gradient(model, inputs, targets))
