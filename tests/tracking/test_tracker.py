"""Along anyone's training: right numbers, on a budget, and the training as without."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import curvature
from curvature.optimizers import OPTIMIZERS, build, closure
from curvature.runs.config import RunConfig
from curvature.runs.table import read_rows, read_table
from curvature.tracking import CurvatureTracker
from curvature.training import train
from tests.conftest import seeded

X = torch.randn(96, 6, generator=seeded(0))
Y = (X[:, 0] + 0.5 * X[:, 1] ** 2 > 0).long()
PARTS = list(zip(X.split(32), Y.split(32), strict=True))


def network(seed: int = 0) -> nn.Module:
    """With what a careless look would change: dropout, running statistics, a frozen layer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2)
        )
    model[0].bias.requires_grad_(False)
    return model


def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def dense(model: nn.Module, batches: Any) -> Tensor:
    """By `jacfwd` of `grad`, in float64."""
    inputs = torch.cat([x for x, _ in batches]).double()
    targets = torch.cat([y for _, y in batches])
    named = {k: v.detach() for k, v in model.named_parameters()}
    flat = torch.cat([v.reshape(-1) for v in named.values()])

    def loss(w: Tensor) -> Tensor:
        parts = w.split([v.numel() for v in named.values()])
        weights = {k: p.view_as(v) for (k, v), p in zip(named.items(), parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, weights, (inputs,)), targets)

    return torch.func.jacfwd(torch.func.grad(loss))(flat)


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    """All that the next step of training depends on."""
    tensors = [t.detach().clone() for t in (*model.parameters(), *model.buffers())]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    flags = [(m.training) for m in model.modules()] + [p.requires_grad for p in model.parameters()]
    states = [torch.get_rng_state(), random.getstate(), str(np.random.get_state())]
    return [tensors, grads, flags, states, copy.deepcopy(optimizer.state_dict())]


def trained(
    name: str, look: Callable[[int, nn.Module, Any], object] | None
) -> tuple[list[Any], list[float]]:
    torch.manual_seed(3)
    model = network()
    own = hasattr(torch.optim, name)
    optimizer: Any = (
        getattr(torch.optim, name)(model.parameters(), lr=0.01)
        if own
        else build(name, model.parameters(), lr=0.05)
    )
    loader = DataLoader(TensorDataset(X, Y), batch_size=24, shuffle=True)
    losses, step = [], 0
    if look:
        look(step, model, optimizer)
    for _ in range(2):
        for batch in loader:
            model.train()
            losses.append(float(optimizer.step(closure(model, F.cross_entropy, [batch])).detach()))
            step += 1
            if look:
                before = everything(model, optimizer)
                look(step, model, optimizer)
                torch.testing.assert_close(
                    everything(model, optimizer)[:1], before[:1], rtol=0, atol=0
                )
                assert str(everything(model, optimizer)) == str(before)
    return everything(model, optimizer), losses


@pytest.mark.parametrize("name", [*OPTIMIZERS, "AdamW", "RMSprop"])
def test_training_is_bit_for_bit_as_without(name: str) -> None:
    without, losses = trained(name, None)
    tracker = CurvatureTracker(None, "cross_entropy", PARTS, every=3)
    with_, again = trained(name, tracker)
    assert again == losses
    torch.testing.assert_close(with_[0], without[0], rtol=0, atol=0)
    assert torch.equal(with_[3][0], without[3][0])
    measured = {row["metric"] for row in tracker.rows}
    assert measured >= {"eigmax", "trace"}
    assert ("stability_threshold" in measured) == (name not in ("adam", "AdamW", "RMSprop"))
    assert sorted({row["step"] for row in tracker.rows}) == [0, 3, 6]


def test_the_numbers_are_those_of_the_dense_hessian() -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.5)
    tracker = CurvatureTracker(
        model, "cross_entropy", PARTS, every=4, budget=60, rtol=1e-3, optimizer=optimizer
    )
    for step in range(9):
        rows = {row["metric"]: row for row in tracker.step(step)}
        if step % 4 == 0:
            H = dense(model, PARTS)
            top = float(torch.linalg.eigvalsh(H)[-1])
            assert rows["eigmax"]["value"] == pytest.approx(top, rel=1e-3)
            assert rows["eigmax"]["converged"]
            begun = "the last eigenvector and a random one" if step else "a random vector"
            assert rows["eigmax"]["method"] == f"lanczos from {begun}"
            error = rows["trace"]["standard_error"]
            assert abs(rows["trace"]["value"] - float(H.trace())) <= 4 * error + 1e-9
            assert rows["stability_threshold"]["value"] == pytest.approx(2 * 1.5 / 0.2)
            assert rows["trace"]["dtype"] == "float64"
            assert rows["trace"]["examples"] == 96
        else:
            assert not rows
        optimizer.zero_grad()
        F.cross_entropy(model(X.double()), Y).backward()
        optimizer.step()


class Switching(nn.Module):
    """Two layers side by side, of which a buffer says which one's inputs are large."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(3, 1), nn.Linear(3, 1)
        self.register_buffer("scale", torch.tensor([4.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.scale[0] * x[:, :3]) + self.b(self.scale[1] * x[:, 3:])


def test_an_eigenvalue_that_overtakes_is_found() -> None:
    model, targets = Switching(), X[:, :1] * 2
    tracker = CurvatureTracker(model, "mse", (X, targets), every=1, metrics="eigmax")
    first = tracker.step(1)[0]["value"]
    model.scale.copy_(torch.tensor([1.0, 4.0]))
    row = tracker.step(2)[0]
    H = curvature.hessian(model, "mse", (X, targets))
    top = float(torch.linalg.eigvalsh((H @ torch.eye(H.size)).double())[-1])
    assert row["value"] == pytest.approx(top, rel=0.01)
    assert row["converged"]
    assert abs(top - first) > 0.05 * first


def test_a_budget_is_kept_and_what_it_leaves_open_is_said() -> None:
    tracker = CurvatureTracker(
        network(), "cross_entropy", PARTS, every=1, budget=6, rtol=1e-6, metrics=("eigmax", "trace")
    )
    eigmax, trace = tracker.step(1)
    assert eigmax["passes"] + trace["passes"] <= 7
    assert not eigmax["converged"]
    assert "the budget: a larger one is not ruled out" in eigmax["message"]
    few = CurvatureTracker(small(), "cross_entropy", PARTS, every=1, budget=4, metrics="eigmax")
    assert few.step(1)[0]["passes"] == 4


def test_a_share_of_the_time_is_kept() -> None:
    """Steps of a millisecond: a measurement, whatever it takes, is put off until it is paid."""
    tracker = CurvatureTracker(
        small(), "cross_entropy", PARTS, every=1, metrics="eigmax", max_share=0.2
    )
    begun = time.perf_counter()
    measured = 0
    step = 0
    while measured < 4:
        time.sleep(0.001)
        step += 1
        measured += bool(tracker.step(step))
        assert time.perf_counter() - begun < 60
    assert step > 4
    assert tracker.seconds <= 0.25 * (time.perf_counter() - begun)


def test_a_loader_that_shuffles_is_taken_once_and_left_as_it_was() -> None:
    def order(track: bool) -> tuple[list[int], Any]:
        loader = DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True, generator=seeded(5))
        torch.manual_seed(0)
        rows = []
        if track:
            tracker = CurvatureTracker(small().float(), "cross_entropy", loader, batches=2)
            rows = [*tracker.step(0), *tracker.step(100)]
        return [float(x[0, 0]) for x, _ in loader] + [float(torch.rand(()))], rows

    plain, _ = order(False)
    tracked, rows = order(True)
    assert tracked == plain
    assert {row["examples"] for row in rows} == {32}
    trace = [row["value"] for row in rows if row["metric"] == "trace"]
    assert trace[0] == pytest.approx(trace[1], rel=1e-6)  # the same batches, the same signs


def test_rows_join_the_table_and_a_resumed_run_takes_back_later_ones(tmp_path: Path) -> None:
    model, out = small(), tmp_path / "mine"
    told: list[dict[str, Any]] = []

    def tracker() -> CurvatureTracker:
        return CurvatureTracker(
            model,
            "cross_entropy",
            PARTS,
            every=10,
            out=out,
            sinks=[told.append],
            about={"on": "train"},
        )

    first = tracker()
    for step in (0, 10, 20):
        first.step(step)
    again = tracker()
    again.step(10)
    rows = read_table(tmp_path)
    assert [(row["step"], row["metric"]) for row in rows] == [
        (step, metric) for step in (0, 10) for metric in ("eigmax", "trace")
    ]
    assert {(row["run"], row["analysis"], row["on"]) for row in rows} == {
        ("mine", "tracking", "train")
    }
    assert len(told) == 8
    assert read_rows(out / "rows" / "tracking.jsonl") == rows


def test_two_trackers_beside_each_other(tmp_path: Path) -> None:
    model = small()
    for name, data in (("tracking", PARTS[:1]), ("tracking-rest", PARTS[1:])):
        CurvatureTracker(model, "cross_entropy", data, out=tmp_path, name=name).step(0)
    assert {row["analysis"] for row in read_table(tmp_path)} == {"tracking", "tracking-rest"}


def test_a_run_that_diverged_gets_rows_without_a_value() -> None:
    model = small()
    tracker = CurvatureTracker(model, "cross_entropy", PARTS, every=1)
    tracker.step(1)
    with torch.no_grad():
        model[0].weight.fill_(torch.nan)
    rows = tracker.step(2)
    assert [(row["metric"], row["value"], row["status"]) for row in rows] == [
        ("eigmax", None, "diverged"),
        ("trace", None, "diverged"),
    ]
    assert "diverged" in rows[0]["message"]


def test_wrapped_and_half_precision_models() -> None:
    model = small().float()
    expected = CurvatureTracker(model, "cross_entropy", PARTS).step(0)[0]["value"]
    compiled = torch.compile(model, backend="eager")
    found = CurvatureTracker(compiled, "cross_entropy", PARTS).step(0)[0]["value"]
    assert found == pytest.approx(expected, rel=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = CurvatureTracker(model, "cross_entropy", PARTS).step(0)[0]["value"]
    assert found == pytest.approx(expected, rel=1e-5)
    tracker = CurvatureTracker(copy.deepcopy(model).bfloat16(), "cross_entropy", PARTS)
    for step in (0, 100):
        assert tracker.step(step)[0]["value"] == pytest.approx(expected, rel=0.05)


def test_a_loss_of_the_whole_batch_and_a_block() -> None:
    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch["x"]), batch["y"])

    model = small().float()
    batches = [{"x": x, "y": y} for x, y in PARTS]
    whole = CurvatureTracker(model, loss, batches, params="2.*").step(0)
    split = CurvatureTracker(model, "cross_entropy", PARTS, params="2.*").step(0)
    assert whole[0]["value"] == pytest.approx(split[0]["value"], rel=1e-4)
    assert whole[1]["method"] == "hutchinson"
    assert whole[0]["parameters"] == 12


def test_as_a_callback_of_train(tmp_path: Path) -> None:
    config = RunConfig(epochs=1, batch_size=200, optimizer="sa-sgd")
    images = torch.randn(40, 1, 8, 8, generator=seeded(0)), torch.arange(40) % 10
    tracker = curvature.CurvatureTracker(None, "cross_entropy", images, every=2)
    result = train(config, tmp_path / "with", callbacks=[tracker])
    plain = train(config, tmp_path / "without")
    assert result.history[-1]["train_loss"] == plain.history[-1]["train_loss"]
    assert result.metrics["test_loss"] == plain.metrics["test_loss"]
    rows = [row for row in read_table(tmp_path / "with") if row["analysis"] == "tracking"]
    assert {row["run"] for row in rows} == {config.id}
    assert [row["step"] for row in rows if row["metric"] == "stability_threshold"] == [2, 4, 6]
    assert {row["epoch"] for row in rows} == {2 / 6, 4 / 6, 1.0}
    assert {row["run.optimizer"] for row in rows} == {"sa-sgd"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"every": 0}, "`every` must be at least 1 step, got 0"),
        ({"budget": 3}, "`budget` must be at least 4"),
        ({"max_share": 1.5}, "`max_share` lies between 0 and 1"),
        ({"metrics": ("eigmax", "density")}, "`metrics` are of eigmax, trace, got eigmax, density"),
        ({"metrics": ()}, "got none"),
        ({"rtol": 0}, "`rtol` must be above 0"),
        ({"batches": 0}, "`batches` must be at least 1"),
        ({"data": iter(PARTS)}, "`data` is an iterator"),
        ({"data": (X, Y), "batches": 2}, "`batches` is for a list or a loader"),
        ({"data": TensorDataset(X, Y)}, "a DataLoader or a pair of tensors, got TensorDataset"),
        ({"data": {"x": X}}, "got dict"),
        ({"params": "3.*"}, "3"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_cannot_be_is_refused_at_once(options: dict[str, Any], says: str) -> None:
    given = {"data": PARTS, **options}
    with pytest.raises((ValueError, TypeError), match=says):
        CurvatureTracker(small(), "cross_entropy", given.pop("data"), **given)


def test_a_loader_with_persistent_workers_is_refused() -> None:
    loader = DataLoader(TensorDataset(X, Y), num_workers=1, persistent_workers=True)
    with pytest.raises(ValueError, match="Pass a list of batches"):
        CurvatureTracker(small(), "cross_entropy", loader)


def test_without_a_model_it_says_so() -> None:
    with pytest.raises(ValueError, match="has no `model`"):
        CurvatureTracker(None, "cross_entropy", PARTS).step(0)


def test_sharded_parameters_are_refused() -> None:
    wrapper = type("FullyShardedDataParallel", (nn.Sequential,), {})
    with pytest.raises(ValueError, match=r"are sharded over processes \(FSDP\)"):
        CurvatureTracker(wrapper(small()), "cross_entropy", PARTS).step(0)


def test_steps_that_begin_anew_are_refused() -> None:
    tracker = CurvatureTracker(small(), "cross_entropy", PARTS, every=2)
    tracker.step(4)
    with pytest.raises(ValueError, match="count steps over all epochs"):
        tracker.step(1)
