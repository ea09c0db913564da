"""The benchmark beside other tools runs, whether or not these are installed."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "side_by_side.py"
TABLES = (
    "Tr(H) to 1 %",
    "λ_max to 1e-3",
    "One product",
    "Growth of",
    "Optimizer steps",
    "Right and",
)


@pytest.mark.slow
def test_a_quick_run_prints_every_table_and_is_not_measured_twice(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--quick", "--out", str(tmp_path)]
    report, picture = tmp_path / "r.md", tmp_path / "p.png"
    first = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(title in first for title in TABLES)
    rows = [line for line in first.splitlines() if line.startswith("| **curvature** |")]
    assert "% over 3 seeds" in rows[0]
    assert "| LayerNorm with weights | right |" in first
    written = [*command, "--report", str(report), "--picture", str(picture)]
    again = subprocess.run(written, capture_output=True, text=True, check=True).stdout
    assert report.read_text() in again
    assert "tiny: {" not in again  # what is measured is told of
    assert "tiny: {" in first
    assert picture.stat().st_size > 1000
