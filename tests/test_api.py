"""What `import curvature` offers, and what it says to the wrong kind of thing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import curvature

MODEL = nn.Linear(3, 2)
DATA = (torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))


def test_every_public_name_is_there_and_there_are_at_most_thirty() -> None:
    assert len(curvature.__all__) <= 30
    for name in curvature.__all__:
        assert getattr(curvature, name) is not None
    assert dir(curvature) == curvature.__all__


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: curvature.trace(MODEL), "curvature.hessian"),
        (lambda: curvature.eigmax(np.eye(3)), "from_matrix"),
        (lambda: curvature.eigmin(MODEL), "curvature.hessian"),
        (lambda: curvature.eigenvalues(MODEL, 2), "curvature.hessian"),
        (lambda: curvature.performance(MODEL), "EmpiricalRisk"),
        (lambda: curvature.hessian(MODEL, "cross_entropy", DATA) @ np.zeros(8), "to_scipy"),
    ],
)
def test_the_wrong_kind_is_told_what_is_wanted(call: Callable[[], object], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        call()


def test_an_unknown_method_is_refused_with_the_list() -> None:
    H = curvature.hessian(MODEL, "cross_entropy", DATA)
    with pytest.raises(ValueError, match="lanczos, staged, power"):
        curvature.eigmax(H, method="foo")  # type: ignore[arg-type]


def test_analyze_takes_a_path(tmp_path: Path) -> None:
    torch.save(nn.Linear(64, 10).state_dict(), tmp_path / "net.pt")
    with pytest.raises(ValueError, match="--model"):
        curvature.analyze(tmp_path / "net.pt", curvature.AnalysisConfig())
