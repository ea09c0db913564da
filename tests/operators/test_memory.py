"""Out of memory: fewer examples at a time and the same numbers, or the error that it was."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from curvature.derivatives.memory import free_memory, is_out_of_memory
from curvature.empirical_risk import EmpiricalRisk
from curvature.empirical_risk.shortage import bound_micro_batch
from curvature.measures.norms import norms
from curvature.measures.trace import trace
from curvature.operators import ggn, hessian
from tests.conftest import ROOT, seeded
from tests.corpus.case import VECTORS, Y, f64

DATA = [(VECTORS[:4], Y[:4]), (VECTORS[4:], Y[4:])]
TOLD = "out of memory: went on with 2 examples at a time instead of 4"


class Hungry(nn.Module):
    """Which can't differentiate more than ``most`` examples at a time."""

    def __init__(self, error: type[RuntimeError] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)
        for i, p in enumerate(self.parameters()):
            p.data.normal_(generator=seeded(i))
        self.most = 10
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and len(x) > self.most:
            raise self.error("DefaultCPUAllocator: can't allocate memory: you tried to …")
        return self.last(self.first(x).tanh())


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_the_micro_batch_is_halved_and_the_numbers_stay(error: Any) -> None:
    model = Hungry(error).double()
    H = hessian(model, "cross_entropy", DATA)
    v = torch.randn(H.size, generator=seeded(0), dtype=f64)
    expected = H @ v
    model.most = 2
    with pytest.warns(RuntimeWarning, match=TOLD):
        found = H @ v
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert TOLD in H.risk.notes
    assert H.risk.largest_part == 2
    torch.testing.assert_close(H @ v, expected, rtol=1e-12, atol=1e-12)


def test_kept_graphs_are_given_up_first() -> None:
    model = Hungry().double()
    H = hessian(model, "cross_entropy", DATA)
    v = torch.randn(H.size, generator=seeded(0), dtype=f64)
    expected = H @ v
    with H.linearized() as kept:
        torch.testing.assert_close(kept @ v, expected)
        model.most = 0  # which kept graphs do not ask
        torch.testing.assert_close(kept @ v, expected)
        assert H.method == "double backward, graph kept"
    model.most = 3
    with H.linearized() as kept, pytest.warns(RuntimeWarning, match=TOLD):
        torch.testing.assert_close(kept @ v, expected)
    assert H.method == "double backward"


def test_what_does_not_fit_one_example_at_a_time_is_an_error() -> None:
    model = Hungry().double()
    H = hessian(model, "cross_entropy", DATA)
    H.risk.survey  # noqa: B018 (before memory is short)
    model.most = 0
    with (
        pytest.warns(RuntimeWarning, match="out of memory"),
        pytest.raises(torch.OutOfMemoryError, match="can't allocate"),
    ):
        H @ torch.ones(H.size, dtype=f64)


def test_the_trace_and_the_gradient_go_on_with_fewer_examples_too() -> None:
    model = Hungry().double()
    G = ggn(model, "cross_entropy", DATA)
    exact, expected = trace(G, method="exact"), norms(G.risk)
    model.most = 3
    with pytest.warns(RuntimeWarning, match=TOLD):
        found = trace(G, method="exact")
    assert found.value == pytest.approx(exact.value, rel=1e-12)
    assert TOLD in G.risk.notes
    fresh = EmpiricalRisk(model, "cross_entropy", DATA)
    with pytest.warns(RuntimeWarning, match=TOLD):
        assert norms(fresh).gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-12)


LIMITED = """
import resource, warnings
import torch
from curvature.operators import ggn, hessian

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 4096), torch.nn.Tanh(), torch.nn.Linear(4096, 3))
H = hessian(model, "cross_entropy", (torch.randn(4096, 8), torch.arange(4096) % 3), batch_size=4096)
v = torch.randn(H.size)
expected = H @ v  # at its peak some 400 MB
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 150_000_000, resource.RLIM_INFINITY))
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    found = H @ v
same = float((found - expected).norm() / expected.norm()) < 1e-5
print(H.risk.largest_part, same, told[0].message)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits an address space that /proc tells")
def test_a_process_short_of_memory_goes_on() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, "-c", LIMITED]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    part, same, told = done.stdout.split(maxsplit=2)
    assert int(part) < 4096
    assert same == "True"
    assert "out of memory: went on with" in told


class Centred(Hungry):
    """Whose examples depend on each other, which a single batch may."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


def test_a_batch_that_cannot_be_cut_is_an_error() -> None:
    model = Centred().double()
    H = hessian(model, "cross_entropy", [(VECTORS, Y)])
    model.most = 4
    with pytest.raises(torch.OutOfMemoryError):
        H @ torch.ones(H.size, dtype=f64)
    assert H.risk.micro_batch is None


def test_another_error_is_no_shortage() -> None:
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_there_is_memory_left_here() -> None:
    assert 1 << 20 < free_memory(torch.device("cpu")) < 1 << 50


class UpToTheLongest(nn.Module):
    """Averages over as many places as the longest sequence of a batch has."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(2, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.last(torch.tanh(x[:, : int(lengths.max())]).mean(1))


@pytest.mark.parametrize("longest", [20, 30])
@pytest.mark.parametrize("before", [0, 1, 6])
def test_a_batch_that_its_longest_sequence_rules_is_not_cut(longest: int, before: int) -> None:
    def batch(last: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
        lengths = torch.full((32,), 20)
        lengths[-1] = last
        x = torch.randn(32, 30, 2, generator=seeded(0))
        x = x * (torch.arange(30) < lengths[:, None])[..., None]
        return (x, lengths), torch.zeros(32).long()

    batches = [*[batch(20)] * before, batch(longest), batch(20)]
    risk = EmpiricalRisk(UpToTheLongest(), "cross_entropy", batches)
    assert risk.survey.outputs is not None
    assert bound_micro_batch(risk, 16) == (longest == 20)
    assert risk.largest_part == (16 if longest == 20 else 32)
