"""Softmax and attention with derivatives of their own: the same values and products as torch's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from curvature.derivatives import softmax
from curvature.derivatives.attention import OwnAttention
from curvature.derivatives.cost import Saved
from curvature.derivatives.products import hessian_product, nodes_of
from tests.conftest import seeded

X = torch.randn(3, 5, 8, generator=seeded(0), dtype=torch.float64)
W = torch.randn(8, 24, generator=seeded(1), dtype=torch.float64) / 3
SOME = torch.tensor([[True, False, True, True, True]] * 4 + [[False] * 5])
CHANGE = torch.randn(5, 5, generator=seeded(2), dtype=torch.float64)

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def heads(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (X @ w).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind()
    return q, k, v


def fused(**options: object) -> Attention:
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options)  # type: ignore[arg-type]


def changed_later(q: Tensor, k: Tensor) -> Tensor:
    weights = (q @ k.detach().mT).softmax(-1)
    q.mul_(2)
    return weights


def hooked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (q @ k.mT).softmax(-1)
    weights.register_hook(lambda g: 2 * g)
    return weights @ v


def partly_constant(*, scores: bool) -> Attention:
    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with torch.set_grad_enabled(not scores):
            of = q @ k.mT
        with torch.set_grad_enabled(scores):
            weights = of.softmax(-1)
        return weights @ v

    return call


def detached(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (q @ k.mT).softmax(-1)
    return weights.detach_() @ v


OWN: dict[str, Attention] = {
    "written out": lambda q, k, v: (q @ k.mT).softmax(-1) @ v,
    "by functions": lambda q, k, v: torch.matmul(F.softmax(torch.matmul(q, k.mT), dim=3), v),
    "by bmm": lambda q, k, v: torch.bmm(torch.softmax(torch.bmm(q[:, 0], k[:, 0].mT), 2), v[:, 0]),
    "weights used, too": lambda q, k, v: (w := (q @ k.mT).softmax(-1)) @ v + w.square().sum(),
    "by keywords": lambda q, k, v: torch.softmax(input=q @ k.mT, dim=-1) @ v,
    "PyTorch's": fused(),
    "scaled": fused(scale=0.7),
    "causal": fused(is_causal=True),
    "masked, one altogether": fused(attn_mask=SOME),
    "shifted": fused(attn_mask=CHANGE),
    "grouped": lambda q, k, v: F.scaled_dot_product_attention(
        q, k[:, :1], v[:, :1], enable_gqa=True
    ),
}
PLAIN: dict[str, Attention] = {
    "scores changed": lambda q, k, v: (q @ k.mT).mul_(2).softmax(-1) @ v,
    "queries changed": lambda q, k, v: changed_later(1 * q, k) @ v,
    "with a hook": hooked,
    "scores without a graph": partly_constant(scores=True),
    "weights without a graph": partly_constant(scores=False),
    "detached": detached,
    "something between": lambda q, k, v: (2 * (q @ k.mT)).softmax(-1) @ v,
    "along another dimension": lambda q, k, v: (q @ k.mT).softmax(-2) @ v,
    "of vectors": lambda q, k, v: torch.stack([row.softmax(0) for row in q.flatten(0, 2)]),
    "in another type": lambda q, k, v: (q @ k.mT).softmax(-1, dtype=torch.float32).double() @ v,
    "shared keys": lambda q, k, v: (q @ k[:1].mT).softmax(-1) @ v,
    "shared values": lambda q, k, v: (q @ k.mT).softmax(-1) @ v[:1],
    "a learned shift": lambda q, k, v: fused(attn_mask=q @ k.mT)(q, k, v),
    "dropout": fused(dropout_p=0.5),
}
CASES = OWN | PLAIN
each = pytest.mark.parametrize("call", CASES.values(), ids=CASES)


def value(call: Attention, w: Tensor) -> Tensor:
    torch.manual_seed(0)
    with sdpa_kernel(SDPBackend.MATH):
        return call(*heads(w)).sin().sum()


@each
@pytest.mark.parametrize("at_a_time", [1, 2**17])
def test_values_and_both_derivatives_are_those_of_torch(
    call: Attention, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(softmax, "_AT_A_TIME", at_a_time)
    w, direction = W.clone().requires_grad_(), W.flip(0)
    found = []
    for mode in (nullcontext(), OwnAttention()):
        with mode, torch.random.fork_rng():
            y = value(call, w)
        (g,) = torch.autograd.grad(y, [w], retain_graph=True)
        found.append((y, g, *hessian_product(y, [w], [direction])))
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)


@each
def test_attention_is_one_function_where_it_is_attention(call: Attention) -> None:
    with OwnAttention(), torch.random.fork_rng():
        y = value(call, W.clone().requires_grad_())
    functions = {type(node).__name__ for node in nodes_of(y)}
    assert ("_AttentionBackward" in functions) == (call in OWN.values())


@pytest.mark.parametrize("needs_weights", [False, True])
def test_attention_of_a_module(needs_weights: bool) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.MultiheadAttention(8, 2, batch_first=True).double()
    params = list(module.parameters())
    v = [torch.randn(p.shape, generator=seeded(i), dtype=p.dtype) for i, p in enumerate(params)]
    products, functions = [], []
    for mode in (nullcontext(), OwnAttention()):
        with mode, sdpa_kernel(SDPBackend.MATH):
            y = module(X, X, X, need_weights=needs_weights)[0].sin().sum()
        functions.append({type(node).__name__ for node in nodes_of(y)})
        products.append(hessian_product(y, params, v))
    torch.testing.assert_close(products[1], products[0], rtol=1e-10, atol=1e-12)
    own = "_SoftmaxBackward" if needs_weights else "_AttentionBackward"
    assert own in functions[1] - functions[0]


def test_the_functions_are_left_as_they_were() -> None:
    before = F.softmax, F.scaled_dot_product_attention
    module = nn.MultiheadAttention(8, 2)
    with OwnAttention(), pytest.raises(AssertionError):
        module(torch.zeros(3, 1, 8), torch.zeros(3, 1, 7), torch.zeros(3, 1, 8))
    assert (F.softmax, F.scaled_dot_product_attention) == before


def test_what_is_wrong_is_for_torch_to_say() -> None:
    q, k, v = heads(W)
    with OwnAttention(), sdpa_kernel(SDPBackend.MATH):
        for options in ({"attn_mask": SOME, "is_causal": True}, {"attn_mask": SOME.int()}):
            with pytest.raises(RuntimeError, match="mask"):
                fused(**options)(q, k, v)
        with pytest.raises(IndexError, match="Dimension out of range"):
            q.softmax(4)


def test_a_hook_that_comes_too_late_is_an_error() -> None:
    w = W.clone().requires_grad_()
    with OwnAttention():
        q, k, v = heads(w)
        weights = (scores := q @ k.mT).softmax(-1)
        assert (weights @ v).requires_grad
        w.register_hook(lambda g: g)
        for t in (scores, weights):
            with pytest.raises(RuntimeError, match="after they had been used"):
                t.register_hook(lambda g: g)


def test_the_graph_of_a_gradient_holds_less() -> None:
    def held(mode: OwnAttention | nullcontext[None]) -> int:
        w = torch.randn(8, 24, generator=seeded(1), dtype=torch.float64).requires_grad_()
        x = torch.randn(3, 50, 8, generator=seeded(0), dtype=torch.float64)
        saved = Saved([w])
        with mode, saved.counting():
            q, k, v = (x @ w).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind()
            y = ((q @ k.mT).softmax(-1) @ v).sin().sum()
            torch.autograd.grad(y, [w], create_graph=True)
        return saved.bytes

    weights = 3 * 2 * 50 * 50 * 8
    plain, own = held(nullcontext()), held(OwnAttention())
    assert own < weights + 0.5 * (plain - weights) < plain


def test_an_empty_batch() -> None:
    w = W.clone().requires_grad_()
    with OwnAttention():
        q, k, v = (x[:0] for x in heads(w))
        y = ((q @ k.mT).softmax(-1) @ v).sum()
    assert y.item() == 0
    assert not any(map(torch.any, hessian_product(y, [w], [W])))
