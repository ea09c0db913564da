"""Parameters broadcast over the examples, however a model reads them, against a loop."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from curvature.derivatives.broadcast import places
from curvature.derivatives.per_example import distrusted, record
from curvature.models import build
from tests.conftest import seeded
from tests.corpus.case import f64, randn

N, T, C = 5, 3, 4
X = randn(N, T, C)
Read = Callable[["Tokens", Tensor], Tensor]


class Tokens(nn.Module):
    """Tokens (N, T, C) that meet p (1, T, C) and q (1, C) in the way of ``read``."""

    def __init__(self, read: Read) -> None:
        super().__init__()
        self.read = read
        self.inner, self.out = nn.Linear(C, C), nn.Linear(C, 2)
        self.p, self.q = nn.Parameter(torch.zeros(1, T, C)), nn.Parameter(torch.zeros(1, C))
        self.norm = nn.LayerNorm(C)
        self.held = [self.p, self.q]

    def forward(self, x: Tensor) -> Tensor:
        x = self.read(self, self.inner(x))
        return self.out(x.tanh()).sum(1)


def moved(model: nn.Module) -> nn.Module:
    generator = seeded(1)
    with torch.no_grad():
        for p in model.double().parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=f64))
    return model.eval()


def params_of(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters())


def gradients(model: nn.Module, x: Tensor, seeds: Tensor) -> dict[str, Tensor]:
    """Each example's own gradient (N, …)."""
    params = params_of(model)
    alone = [
        torch.autograd.grad(
            model(x[i : i + 1]), list(params.values()), seeds[i : i + 1], materialize_grads=True
        )
        for i in range(len(x))
    ]
    return {name: torch.stack([g[k] for g in alone]) for k, name in enumerate(params)}


def avoided(model: nn.Module, *batches: Tensor) -> set[str]:
    return distrusted(
        model,
        params_of(model),
        lambda k, i: model(batches[k] if i is None else batches[k][i : i + 1]),
        [len(x) for x in batches],
        generator=seeded(0),
        rtol=1e-6,
    )[0]


def check(model: nn.Module, x: Tensor, avoid: set[str], *, times: int = 1) -> set[str]:
    """All squares are right, of each example or of the sum; says which those of the sum are."""
    recording = record(
        *(model, params_of(model), lambda: model(x)),
        avoid=avoid,
        by_example=True,
        examples=len(x),
    )
    for seed in range(times):
        seeds = torch.randn(recording.outputs.shape, generator=seeded(seed), dtype=f64)
        apart, together = recording.squared_norms(seeds, retain_graph=times > 1)
        for name, g in gradients(model, x, seeds).items():
            if name in apart:
                torch.testing.assert_close(apart[name], g.flatten(1).square().sum(1))
            else:
                found = together.get(name, torch.zeros((), dtype=f64))
                torch.testing.assert_close(found, g.sum(0).square().sum())
    return set(recording.rest)


@pytest.mark.parametrize(
    "spec",
    ["vit_study:width=16,depth=1,mlp=16", "vit_small:width=12,depth=2,heads=3,mlp=8"],
)
@pytest.mark.parametrize("n", [1, 6])
def test_a_vision_transformer_is_covered_whole(spec: str, n: int) -> None:
    model = moved(build(spec, input_shape=(3, 8, 8), classes=4))
    x = randn(n, 3, 8, 8)
    assert avoided(model, randn(6, 3, 8, 8)) == set()
    assert check(model, x, set(), times=2) == set()


def embedded(m: Tokens, x: Tensor) -> Tensor:
    return x + F.embedding(torch.zeros(len(x), 1, dtype=torch.long), m.q)


def computed_again(m: Tokens, x: Tensor) -> Tensor:
    return checkpoint(lambda x: x * m.p, x, use_reentrant=False)


READ: dict[str, tuple[Read, set[str]]] = {  # and whose rows aren't those of the examples
    "added": (lambda m, x: x + m.p, set()),
    "put before": (lambda m, x: torch.cat([m.p.expand(len(x), -1, -1), x], 1), set()),
    "both": (lambda m, x: x * m.p + m.q[:, None], set()),
    "twice": (lambda m, x: (x + m.p).tanh() * m.p, set()),
    "without its dimension": (lambda m, x: x + m.p.squeeze(0), set()),
    "through a layer": (lambda m, x: x + m.inner(m.p), {"inner.weight", "inner.bias"}),
    "through a layer of its own": (lambda m, x: x + m.norm(m.p), set()),
    "first row": (lambda m, x: x + m.p[0], {"p"}),
    "first token": (lambda m, x: x + m.p.squeeze(0)[0], {"p"}),
    "norm": (lambda m, x: x * m.p.norm(), {"p"}),
    "repeated": (lambda m, x: torch.cat([m.p.repeat(len(x), 1, 1), x], 1), {"p"}),
    "mean": (lambda m, x: x + m.p.mean(0), {"p"}),
    "expanded": (lambda m, x: torch.cat([m.q.expand(len(x), 1, -1), x], 1), {"q"}),
    "length": (lambda m, x: x + m.p * m.p.shape[0], {"p"}),
    "embedding": (embedded, {"q"}),
    "as tokens": (lambda m, x: x + m.q, {"q"}),
    "one well, one badly": (lambda m, x: x + m.p + m.q[0], {"q"}),
    "held elsewhere": (lambda m, x: x + m.held[0], {"p"}),
    "held elsewhere too": (lambda m, x: x + m.p * m.held[0], {"p"}),
    "in two that have to be as long": (
        lambda m, x: x * m.held[1] + torch.cat([m.q[:, None], m.p], 1)[:, :T],
        {"p", "q"},
    ),
    "computed again": (computed_again, {"p"}),
}


@pytest.mark.parametrize("name", READ)
def test_rows_that_are_not_the_examples_are_found_and_no_square_is_wrong(name: str) -> None:
    read, wrong = READ[name]
    model = moved(Tokens(read))
    avoid = avoided(model, X[:4])
    in_use = check(model, X, set(params_of(model)))
    assert avoid & in_use == wrong
    assert check(model, X, avoid) == wrong


def test_as_many_tokens_as_examples_are_not_taken_for_them() -> None:
    model = moved(Tokens(lambda m, x: x + m.q))
    assert "q" in avoided(model, X[:T])


def test_one_example_at_a_time_shows_nothing_of_rows() -> None:
    model = moved(Tokens(lambda m, x: x + m.p + m.q[:, None]))
    assert avoided(model, X[:1], X[1:2]) >= {"p", "q"}
    assert avoided(model, X[:1], X[1:]).isdisjoint({"p", "q"})


def test_a_parameter_that_some_batches_use() -> None:
    model = moved(Tokens(lambda m, x: (x + m.p if x[0, 0, 0] > 0 else x) + m.q[:, None]))
    uses = model.inner(X)[:, 0, 0] > 0
    with_p, without = X[uses], X[~uses]
    assert min(len(with_p), len(without)) >= 2
    assert avoided(model, without) & {"p", "q"} == {"p"}
    assert avoided(model, without, with_p).isdisjoint({"p", "q"})
    for x in (with_p, without):
        assert check(model, x, set()) == set()


def test_what_goes_around_the_rows_is_left_to_the_rest() -> None:
    model = moved(Tokens(lambda m, x: x + m.held[0] + m.q[:, None] * m.held[1]))
    assert check(model, X, set()) == {"p", "q"}


def test_a_parameter_of_two_modules_is_left_alone() -> None:
    model = moved(Tokens(lambda m, x: m.again.read(m.again, x + m.p)))
    model.again = moved(Tokens(lambda m, x: x * m.p))
    model.again.p = model.p
    assert not {"p", "again.p"} & set(places(model, params_of(model)))
    assert "p" in avoided(model, X)
    assert "p" in check(model, X, set())


def test_a_failing_model_has_its_parameters_back() -> None:
    rows = []

    def fails(m: Tokens, x: Tensor) -> Tensor:
        rows.append(len(m.p))
        raise KeyError("stop")

    model = moved(Tokens(fails))
    before = params_of(model)
    with pytest.raises(KeyError, match="stop"):
        record(model, before, lambda: model(X), examples=N)
    assert all(p is before[name] for name, p in model.named_parameters())
    assert not model.inner._forward_hooks
    assert rows == [N, 1]


def test_a_model_that_fails_with_rows_is_run_without() -> None:
    """As it may on a size of input that wasn't among those checked."""
    model = moved(Tokens(lambda m, x: x + m.p.reshape(1, T, C)))
    seeds = randn(N, 2, seed=3)
    recording = record(model, params_of(model), lambda: model(X), by_example=True, examples=len(X))
    assert set(recording.rest) == {"p"}
    apart, _ = recording.squared_norms(seeds)
    exact = gradients(model, X, seeds)
    for name in ("inner.weight", "out.weight", "out.bias"):
        assert torch.allclose(apart[name], exact[name].flatten(1).square().sum(1))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_what_can_have_no_rows_is_left_alone() -> None:
    class Weight(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, 4))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight

    for model in (
        nn.Linear(4, 1),
        nn.Conv2d(3, 1, 2),
        nn.utils.parametrizations.weight_norm(Weight()),
        torch.jit.script(Weight()),
        Weight().requires_grad_(False),
    ):
        assert places(model, params_of(model)) == {}
    assert set(places(Weight(), {})) == set()
    model = Weight()
    assert set(places(model, params_of(model))) == {"weight"}
