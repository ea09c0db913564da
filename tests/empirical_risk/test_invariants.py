"""What must not change a number, and what an analysis must not change."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from curvature.empirical_risk import EmpiricalRisk
from curvature.empirical_risk.evaluation import random_state
from curvature.operators import functional_hessian, ggn, hessian
from tests.conftest import seeded
from tests.corpus.case import VECTORS, Y, f64, randn, uneven
from tests.corpus.layouts import of_model_and_batch
from tests.corpus.modules import OneParameter, mlp

few = settings(derandomize=True, max_examples=15, deadline=None)


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return mlp()().double()


def batches(sizes: list[int], order: Tensor) -> list[tuple[Tensor, Tensor]]:
    ends = torch.tensor(sizes).cumsum(0).tolist()
    parts = [order[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    return [(VECTORS[part], Y[part]) for part in parts]


V = torch.randn(43, generator=seeded(6), dtype=f64)
OPERATORS = pytest.mark.parametrize("operator", [hessian, ggn, functional_hessian])
SIZES = st.sampled_from([[7], [3, 3, 1], [1, 6], [1] * 7, [2, 5]])


@few
@given(sizes=SIZES, seed=st.integers(0, 99), micro_batch=st.sampled_from([None, 1, 2, 5]))
def test_batches_micro_batches_and_order_do_not_matter(
    sizes: list[int], seed: int, micro_batch: int | None
) -> None:
    order = torch.randperm(7, generator=seeded(seed))
    risk = EmpiricalRisk(net(), "cross_entropy", batches(sizes, order), micro_batch=micro_batch)
    whole = EmpiricalRisk(net(), "cross_entropy", [(VECTORS, Y)])
    for operator in (hessian, ggn, functional_hessian):
        torch.testing.assert_close(operator(risk) @ V, operator(whole) @ V)
    torch.testing.assert_close(risk.gradient(), whole.gradient())
    assert risk.value == pytest.approx(whole.value)


@OPERATORS
@few
@given(seed=st.integers(0, 99), a=st.floats(-3, 3), b=st.floats(-3, 3))
def test_operators_are_linear_and_symmetric(operator: Any, seed: int, a: float, b: float) -> None:
    A = operator(net(), "cross_entropy", uneven(VECTORS, Y))
    u, v = torch.randn(2, A.size, generator=seeded(seed), dtype=f64)
    torch.testing.assert_close(A @ (a * u + b * v), a * (A @ u) + b * (A @ v))
    torch.testing.assert_close(torch.dot(u, A @ v), torch.dot(v, A @ u))


@OPERATORS
def test_terms_add_up_to_the_whole(operator: Any) -> None:
    A = operator(net(), "cross_entropy", uneven(VECTORS, Y))
    assert len(A.terms) == 3
    torch.testing.assert_close(sum(term @ V for term in A.terms), A @ V)
    torch.testing.assert_close(A.terms[1] @ V, list(A.terms)[1] @ V)


@few
@given(t=st.floats(0.2, 5))
def test_reparameterisation_changes_the_hessian_as_the_chain_rule_says(t: float) -> None:
    """With w = t·u, ∇²_u L = t² ∇²_w L at the same function."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()
            with torch.no_grad():
                for p in self.inner.parameters():
                    p /= t

        def forward(self, x: Tensor) -> Tensor:
            w = {name: t * p for name, p in self.inner.named_parameters()}
            out: Tensor = torch.func.functional_call(self.inner, w, (x,))
            return out

    data = uneven(VECTORS, Y)
    scaled = hessian(Scaled(), "cross_entropy", data) @ V
    torch.testing.assert_close(scaled, t**2 * (hessian(net(), "cross_entropy", data) @ V))


def test_relu_rescaling_keeps_the_function_and_moves_the_curvature() -> None:
    """Scaling one layer by a and the next by 1/a divides the first block by a² (Dinh et al.)."""
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    data = uneven(VECTORS, Y)
    v = torch.randn(25, generator=seeded(1), dtype=f64)
    before = hessian(model, "cross_entropy", data, params="0.*") @ v
    with torch.no_grad():
        for p in model[0].parameters():
            p *= 4
        model[2].weight /= 4
    after = hessian(model, "cross_entropy", data, params="0.*") @ v
    torch.testing.assert_close(after, before / 16)


def test_params_give_the_diagonal_block() -> None:
    data = uneven(VECTORS, Y)
    whole = hessian(net(), "cross_entropy", data)
    block = hessian(net(), "cross_entropy", data, params=["2.*"])
    v = torch.zeros(43, dtype=f64)
    v[25:] = V[25:]
    torch.testing.assert_close(block @ V[25:], (whole @ v)[25:])
    assert list(block.risk.layout) == ["2.weight", "2.bias"]


def test_another_number_of_threads_changes_nothing_beyond_rounding() -> None:
    H = hessian(net(), "cross_entropy", uneven(VECTORS, Y))
    expected, threads = H @ V, torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.testing.assert_close(H @ V, expected)
    finally:
        torch.set_num_threads(threads)


def state_of(model: nn.Module) -> list[Any]:
    return [
        {k: v.tolist() for k, v in model.state_dict().items()},
        [module.training for module in model.modules()],
        [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        [p.requires_grad for p in model.parameters()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        [id(p) for p in (*model.parameters(), *model.buffers())],
        random_state(),
        torch.is_grad_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
    ]


def dense(model: nn.Module, loss: Any) -> Tensor:
    matrix: Tensor = hessian(model, loss, uneven(VECTORS, Y)) @ torch.eye(43, dtype=f64)
    return matrix


class Failing(nn.Module):
    """Draws from every generator, moves a buffer, and fails in a later call."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.net, self.left = net(), calls
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        self.mean = self.mean + 1  # replaced, not moved in place
        torch.rand(1), random.random(), np.random.rand()
        self.left -= 1
        if not self.left:
            raise ArithmeticError("as asked")
        out: Tensor = self.net(x)
        return out


@pytest.fixture
def mixed() -> nn.Module:
    model = nn.Sequential(net(), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 3)).double()
    model[1].eval()  # its owner froze it
    F.cross_entropy(model(VECTORS), Y).backward()
    return model


@OPERATORS
@pytest.mark.parametrize("training", [True, False])
def test_an_analysis_leaves_everything_as_it_was(
    operator: Any, training: bool, mixed: nn.Module
) -> None:
    mixed.train(training)
    mixed[1].eval()
    before = state_of(mixed)
    A = operator(mixed, "cross_entropy", uneven(VECTORS, Y))
    A @ torch.ones(A.size, dtype=f64)
    assert state_of(mixed) == before


@pytest.mark.parametrize("calls", [1, 4, 9, 14, 20])
@pytest.mark.parametrize("loss", ["cross_entropy", of_model_and_batch])
def test_a_failed_analysis_does_too(calls: int, loss: Any) -> None:
    model = Failing(calls).train()
    before = state_of(model)
    with pytest.raises(ArithmeticError) as failure:
        dense(model, loss)
    assert failure.traceback  # held, as in a notebook
    assert state_of(model) == before


def test_embeddings_that_rescale_themselves_are_restored() -> None:
    model = nn.Sequential(nn.Embedding(6, 4, max_norm=0.5), nn.Flatten(), nn.Linear(4, 3))
    before = state_of(model)
    hessian(model, "cross_entropy", [(torch.arange(6)[:, None], Y[:6])])
    assert state_of(model) == before


def test_a_vector_with_a_graph_gives_a_product_without() -> None:
    H = hessian(net(), "cross_entropy", uneven(VECTORS, Y))
    assert not (H @ V.clone().requires_grad_()).requires_grad


def test_no_grad_in_between_makes_no_zeros() -> None:
    H = hessian(net(), "cross_entropy", uneven(VECTORS, Y))
    expected = H @ V
    with H.risk.evaluating(), torch.no_grad():
        torch.testing.assert_close(H @ V, expected)


def test_parts_outside_of_evaluation_mode_are_refused() -> None:
    risk = EmpiricalRisk(net(), "cross_entropy", uneven(VECTORS, Y))
    with pytest.raises(RuntimeError, match="is gone over inside"):
        list(risk.all_parts())


def test_value_gradient_and_weights_are_those_of_the_mean_loss() -> None:
    model = OneParameter().double()
    risk = EmpiricalRisk(model, "mse", uneven(VECTORS, randn(7, 4, seed=3)))
    a = model.a.detach()
    e = torch.tanh(a * VECTORS) - randn(7, 4, seed=3)
    assert risk.value == pytest.approx(float((e**2).mean()))
    slope = (2 * e * VECTORS * (1 - torch.tanh(a * VECTORS) ** 2)).mean()
    torch.testing.assert_close(risk.gradient(), slope.reshape(1))
    torch.testing.assert_close(risk.weights(), a.reshape(1))


def test_a_value_belongs_to_the_parameters_of_now() -> None:
    model = net()
    risk = EmpiricalRisk(model, "cross_entropy", uneven(VECTORS, Y))
    before = risk.value
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1
    assert risk.value == pytest.approx(float(F.cross_entropy(model(VECTORS), Y).detach()))
    assert risk.value != before
