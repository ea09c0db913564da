"""The same seeded analysis on the CPU and on a GPU."""

import pytest
import torch

from curvature import models
from curvature.analysis import analyze
from curvature.empirical_risk import EmpiricalRisk
from curvature.runs.checkpoint import Checkpoint
from curvature.runs.config import AnalysisConfig
from tests.conftest import seeded

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

RTOL = 1e-4  # float32: other kernels and other orders of summation


@pytest.mark.parametrize(
    "model", ["mlp:hidden=16", "cnn:width=8", "vit_small:width=24,depth=1,heads=2,patch=4"]
)
def test_one_seed_gives_one_number_on_both_devices(model: str) -> None:
    net = models.build(model, input_shape=(1, 8, 8), classes=10, generator=seeded(0))
    checkpoint = Checkpoint(net.state_dict())
    found = {}
    for device in ("cpu", "cuda"):
        config = AnalysisConfig(
            model=model,
            data="digits",
            examples=64,
            batch_size=25,
            trace=True,
            trace_method="hutchinson",
            max_passes=10,
            eigmax=True,
            device=device,
        )
        found[device] = {row["metric"]: row["value"] for row in analyze(checkpoint, config)}
    for metric, value in found["cpu"].items():
        assert found["cuda"][metric] == pytest.approx(value, rel=RTOL), metric


def test_tf32_is_off_unless_asked_for() -> None:
    x, targets = torch.randn(256, 256, generator=seeded(1)), torch.zeros(256, dtype=torch.long)
    net = torch.nn.Linear(256, 10, bias=False)
    exact = EmpiricalRisk(net, "cross_entropy", (x, targets), dtype=torch.float64).value
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        value = EmpiricalRisk(net.cuda(), "cross_entropy", (x, targets)).value
        assert value == pytest.approx(exact, rel=1e-5)
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
