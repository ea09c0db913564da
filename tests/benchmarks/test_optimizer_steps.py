"""The benchmark of step times runs; what it measures is for a quiet machine."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "optimizer_steps.py"


@pytest.mark.slow
def test_a_quick_run_prints_a_ratio_for_each_optimizer() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick"], capture_output=True, text=True, check=True
    )
    rows = [line.split() for line in done.stdout.splitlines()[3:]]
    assert [row[0] for row in rows] == ["sgd", "msgd", "adam", "sam", "sa-sgd", "sa-sam"]
    assert all(float(row[1]) > 0.5 for row in rows)
