"""What the first examples don't show: experts, branches, blank inputs; against dense Hessians."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curvature.empirical_risk import EmpiricalRisk
from curvature.empirical_risk.reach import spread
from curvature.measures.functional_trace import tensors_with_a_part
from curvature.measures.gauss_newton_trace import GaussNewtonTrace
from curvature.measures.trace import trace
from curvature.operators import ggn, hessian
from tests.conftest import seeded
from tests.corpus.case import f64, labels, randn

LABELS = torch.randint(3, (64,), generator=seeded(1))


class Experts(nn.Module):
    """Every token goes to one expert; the examples' means to the last layer."""

    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 2, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 5), activation(), nn.Linear(5, 4)) for _ in range(2)
        )
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, 4)
        chosen = self.gate(tokens).argmax(1)
        mixed = torch.zeros_like(tokens)
        for i, expert in enumerate(self.experts):
            rows = (chosen == i).nonzero()[:, 0]
            if len(rows):
                mixed = mixed.index_add(0, rows, expert(tokens[rows]))
        out: Tensor = self.out(mixed.view(x.shape).mean(1))
        return out


class Branches(nn.Module):
    """A flag in the first input chooses a linear branch, or a smooth one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Sequential(nn.Linear(4, 5), nn.GELU())
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(torch.where(x[:, :1] > 0, self.b(x), self.a(x)))
        return out


class Side(nn.Module):
    """Examples with a flag take another branch, too, behind a layer that they share."""

    def __init__(self, main: type[nn.Module], side: type[nn.Module]) -> None:
        super().__init__()
        self.a, self.r, self.out = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.main, self.side = main(), side()

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x[:, 1:])
        z = self.main(h)
        if (x[:, 0] > 0).any():
            z = z + 3 * (x[:, :1] > 0) * self.side(self.r(h))
        out: Tensor = self.out(z)
        return out


def rare_side(main: type[nn.Module], side: type[nn.Module]) -> tuple[nn.Module, Tensor]:
    """One flagged example in nine, none of them among those that are looked at first."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Side(main, side).double()
    x = randn(64, 7)
    x[:, 0] = 0
    x[6:58:9, 0] = 1
    x[6:58:9, 1:] *= 3
    return model, x


@pytest.mark.parametrize("batch_size", [64, 10])
def test_a_rare_smooth_branch_curves_the_layers_before_it(batch_size: int) -> None:
    model, x = rare_side(nn.ReLU, nn.Tanh)
    H = hessian(model, "cross_entropy", (x, LABELS), batch_size=batch_size)
    few = spread(H.risk, 8, 4)
    assert not any(bool((part[0][:, 0] > 0).any()) for part in few)
    assert tensors_with_a_part(H.risk, seeded(0)) == ["a.weight", "a.bias", "r.weight", "r.bias"]
    found = trace(H, method="split", rtol=0.02)
    assert abs(found.value - dense_trace(model, x)) <= 4 * found.standard_error


def test_kinks_of_a_rare_branch_leave_no_differences() -> None:
    model, x = rare_side(nn.Tanh, nn.ReLU)
    found = trace(hessian(model, "cross_entropy", (x, LABELS)), method="split", rtol=0.02)
    assert "by differences" not in found.method
    assert abs(found.value - dense_trace(model, x)) <= 4 * found.standard_error


@pytest.mark.parametrize("seed", range(4))
def test_a_trace_that_hangs_on_few_examples_is_drawn_until_its_spread_is_seen(seed: int) -> None:
    model, x = rare_side(nn.Tanh, nn.ReLU)  # one in 64 makes a quarter of tr(G), at 0.6 or at 1.9
    H = hessian(model, "cross_entropy", (x, LABELS))
    found = trace(H, method="split", rtol=0.02, generator=seeded(seed))
    assert found.converged
    assert abs(found.value - dense_trace(model, x)) <= 4 * found.standard_error


def test_representatives_are_few_and_reach_all_that_any_example_does() -> None:
    model, x = rare_side(nn.ReLU, nn.Tanh)
    model.unused = nn.Linear(2, 2).double()
    risk = EmpiricalRisk(model, "cross_entropy", (x, LABELS), batch_size=10)
    with risk.evaluating():
        few = risk.representatives
        assert risk.representatives is few
        with torch.no_grad():
            model.r.weight.mul_(2)
        assert risk.representatives is not few
    assert few.unreached == set()
    assert [len(part[0]) for part in few.parts] == [4, 3, 1]
    assert few.parts[-1][0][0, 0] == 1


def test_a_tensor_of_the_graph_that_no_example_reaches_is_told_from_one_without_use() -> None:
    model, x = made("branches")
    model.unused = nn.Linear(2, 2).double()
    x[:, 0] = 0
    risk = EmpiricalRisk(model, "cross_entropy", (x, LABELS), batch_size=10)
    with risk.evaluating():
        assert risk.representatives.unreached == {"b.0.weight", "b.0.bias"}


def made(kind: str) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "branches":
            x = randn(64, 4)
            x[:, 0] = (torch.arange(64) >= 32).to(f64)
            return Branches().double(), x
        if kind == "blank":
            x = randn(64, 4)
            x[:2] = 0
            layers = nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, 3, bias=False)
            return nn.Sequential(*layers).double(), x
        model = Experts(nn.GELU if "smooth" in kind else nn.ReLU).double()
    tokens = 1 if "one token" in kind else 3
    x = 2 * randn(64, 1, 4) + 0.3 * randn(64, tokens, 4)
    order = model.gate(x[:, 0]).argmax(1).argsort(stable=True)
    return model, x[order]


def dense_trace(model: nn.Module, x: Tensor) -> float:
    """tr(H), a row at a time."""
    params = list(model.parameters())
    grads = torch.autograd.grad(
        F.cross_entropy(model(x), LABELS),
        params,
        create_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    total = 0.0
    for p, g in zip(params, grads, strict=True):
        for i in range(p.numel() if g.requires_grad else 0):
            (row,) = torch.autograd.grad(
                g.view(-1)[i], [p], retain_graph=True, materialize_grads=True
            )
            total += float(row.view(-1)[i])
    return total


KINDS = ["tokens", "one token", "smooth tokens", "smooth one token", "branches", "blank"]


@pytest.mark.parametrize("batch_size", [64, 10])
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_first_examples_do_not_reach_is_counted(kind: str, batch_size: int) -> None:
    model, x = made(kind)
    H = hessian(model, "cross_entropy", (x, LABELS), batch_size=batch_size)
    expected = dense_trace(model, x)
    found = [trace(H, method="split", rtol=0.02, generator=seeded(seed)) for seed in range(4)]
    error = sum(each.value - expected for each in found)
    assert abs(error) <= 4 * sum(each.standard_error**2 for each in found) ** 0.5
    assert trace(H, method="exact").value == pytest.approx(expected, rel=1e-8)


def test_what_an_example_reaches_that_was_not_looked_at_goes_the_generic_way() -> None:
    model, x = made("one token")
    x = torch.cat([x[:1].expand(63, -1, -1), x[-1:]])  # the last goes to the other expert
    G = ggn(model, "cross_entropy", (x, LABELS))
    last = model.gate(x[-1, 0]).argmax()
    assert {f"experts.{last}.0.weight", f"experts.{last}.0.bias"} <= GaussNewtonTrace(
        G.risk, seeded(0)
    )._avoid
    assert trace(G, method="exact").value == pytest.approx(
        float(torch.stack([(G @ e) @ e for e in torch.eye(G.size, dtype=f64)]).sum()), rel=1e-8
    )


def test_a_tensor_no_example_looked_at_reaches_has_a_part_and_one_without_use_none() -> None:
    model, x = made("branches")
    x[:, 0] = 0
    x[0, 0] = 1
    model.unused = nn.Linear(2, 2).double()
    risk = hessian(model, "cross_entropy", (x, LABELS)).risk
    assert tensors_with_a_part(risk, seeded(0)) == ["b.0.weight", "b.0.bias"]
    model, x = made("smooth one token")
    x = torch.cat([x[:1].expand(63, -1, -1), x[-1:]])
    found = tensors_with_a_part(hessian(model, "cross_entropy", (x, LABELS)).risk, seeded(0))
    assert {f"experts.{i}.0.weight" for i in range(2)} <= set(found)


@pytest.mark.parametrize(("n", "batch_size"), [(40, 40), (40, 7), (40, 1), (3, 2)])
def test_examples_are_spread_over_all_batches(n: int, batch_size: int) -> None:
    x = torch.arange(n, dtype=f64)[:, None]
    risk = EmpiricalRisk(nn.Linear(1, 1).double(), "mse", (x, x), batch_size=batch_size)
    parts = spread(risk, 16, 5)
    chosen = sorted(int(i) for part in parts for i in part[0])
    assert len(set(chosen)) == len(chosen) <= 16
    assert max(len(part[0]) for part in parts) <= 5
    assert len(parts) <= 4
    if n == 40:
        assert max(b - a for a, b in zip([-1, *chosen], [*chosen, n], strict=True)) <= 6
    else:
        assert chosen == [0, 1, 2]


@pytest.mark.parametrize("n", [4, 1])
def test_a_tensor_that_all_batches_share_is_not_joined(n: int) -> None:
    shared = torch.eye(1, dtype=f64)
    batches = [((randn(n, 1, seed=i), shared), randn(n, 1)) for i in range(12)]

    class Scaled(nn.Linear):
        def forward(self, x: Tensor, shared: Tensor) -> Tensor:
            return super().forward(x) @ shared

    parts = spread(EmpiricalRisk(Scaled(1, 1).double(), "mse", batches), 8, 4)
    assert all(part[0][1].shape == (1, 1) for part in parts)
    assert [len(part[1]) for part in parts] == [1] * 8
    plain = EmpiricalRisk(nn.Linear(1, 1).double(), "mse", [(a[0], y) for a, y in batches])
    assert [len(part[1]) for part in spread(plain, 8, 4)] == [4, 4]


def test_second_draws_of_few_examples_of_many_batches_are_made_together() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    seen: list[int] = []
    batches = [(randn(12, 6, seed=i), labels(12, classes=3, seed=i)) for i in range(40)]
    G = GaussNewtonTrace(hessian(model, "cross_entropy", batches).risk, seeded(0))
    model.register_forward_hook(lambda m, args, out: seen.append(len(out)))
    G.advance()
    first, again = seen[:40], seen[40:]
    assert first == [12] * 40
    assert max(again) == 12
    assert sum(again) == int((G.draws[0].counts - 1).sum())
    assert len(again) <= sum(again) / 12 * 1.5


def test_no_batch_of_a_lazy_loader_outlives_its_turn() -> None:
    class Inputs(Tensor):
        """Made anew each time, as a loader's."""

    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = [0]

    class Lazy:
        def __len__(self) -> int:
            return 40

        def __iter__(self) -> Iterator[Any]:
            for i in range(40):
                x = randn(12, 6, seed=i).as_subclass(Inputs)
                alive.add(x)
                yield x, labels(12, classes=3, seed=i)

    class Watching(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            most[0] = max(most[0], len(alive))
            out: Tensor = super().forward(x.as_subclass(Tensor))
            return out

    model = Watching(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    found = trace(hessian(model, "cross_entropy", Lazy()), rtol=1e-9, max_passes=3)
    assert found.passes > 2
    assert most[0] <= 2  # the one that is being read, and the one before it


def test_what_does_not_fit_in_memory_is_tried_a_few_times_and_batches_are_counted_once() -> None:
    class Hungry(nn.Sequential):
        most, failed = 64, 0

        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled() and len(x) > self.most:
                self.failed += 1
                raise torch.OutOfMemoryError("out of memory")
            out: Tensor = super().forward(x)
            return out

    class Data(list[Any]):
        passes = 0

        def __iter__(self) -> Iterator[Any]:
            self.passes += 1
            return super().__iter__()

    def drawn(most: int) -> tuple[float, int, int]:
        data = Data((randn(64, 6, seed=i), labels(64, classes=3, seed=i)) for i in range(50))
        G = GaussNewtonTrace(ggn(model, "cross_entropy", data).risk, seeded(0))
        data.passes, model.most = 0, most
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            G.advance()
        return G.value(), data.passes, model.failed

    model = Hungry(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    expected, passes, _ = drawn(64)
    assert passes == 2
    value, _, failed = drawn(9)
    assert value == pytest.approx(expected, rel=1e-12)
    assert 0 < failed <= 7
