"""The study's grid at its smallest, on real images: sweeps, then figures of the corrupted ones."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner
from curvature_cli.main import main as curv

from curvature.runs.table import read_table
from tests.sweep.conftest import Inline

STUDY = Path(__file__).resolve().parents[2] / "examples" / "study" / "study.py"


@pytest.fixture(scope="module")
def study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("study", STUDY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["study"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_a_tiny_study_measures_and_draws_both_networks(
    study: ModuleType, real_cifar10: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("curvature.sweep.LocalExecutor", lambda *a, **k: Inline())
    where = str(real_cifar10)
    for runs, sweep in study.sweeps(study.SCALES["tiny"], where, where, tmp_path).items():
        for command in (sweep, *study.figures(runs)):
            result = CliRunner().invoke(curv, command)
            assert result.exit_code == 0, result.output
        table = read_table(runs)
        traces = {(row["on"], row["pooled_over"]) for row in table if row["metric"] == "trace"}
        assert traces == {
            ("cifar10c:images=1", "corruption, severity"),
            ("train", None),
            ("val", None),
        }
        assert len({row["run"] for row in table}) == 2
        assert {path.name for path in runs.glob("*.*")} == {
            "accuracy.png",
            "eigmax.png",
            "report.html",
            "trace.png",
        }


def test_the_full_study_is_216_runs_of_each_network(study: ModuleType, tmp_path: Path) -> None:
    sweeps = study.sweeps(study.SCALES["gpu"], "clean", "corrupted", tmp_path)
    assert [path.name for path in sweeps] == ["vgg19", "vit"]
    for command in sweeps.values():
        counts = [len(command[command.index(o) + 1].split(",")) for o in ("--optimizers", "--lr")]
        decays = command[command.index("--weight-decay") + 1].split(",")
        seeds = int(command[command.index("--seeds") + 1])
        assert counts[0] * counts[1] * len(decays) * seeds == 216
