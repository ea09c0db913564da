"""The short examples run, and say what a dense Hessian says."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from curvature_cli.main import main as curv

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def number(name: str, text: str) -> float:
    found = re.search(rf"{re.escape(name)}\s+=?\s*(-?[\d.]+)", text)
    assert found, text
    return float(found[1])


def test_ones_own_model(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    found = runpy.run_path(str(EXAMPLES / "own_model.py"))
    printed = capsys.readouterr().out
    H = found["H"] @ torch.eye(found["H"].size)
    values = torch.linalg.eigvalsh(H.double())
    assert number("λ_max", printed) == pytest.approx(float(values[-1]), rel=1e-3)
    assert number("λ_min", printed) == pytest.approx(float(values[0]), rel=0.06)
    error = found["trace"].standard_error
    assert abs(number("Tr(H)", printed) - float(values.sum())) <= 4 * error


def test_a_language_model_gives_the_same_from_python_and_from_the_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runpy.run_path(str(EXAMPLES / "language_model.py"), run_name="__main__")
    printed = capsys.readouterr().out
    monkeypatch.syspath_prepend(EXAMPLES)
    import language_model

    torch.manual_seed(0)
    torch.save(language_model.factory().state_dict(), tmp_path / "net.pt")
    names = [("model", "factory"), ("data", "batches"), ("loss", "loss")]
    options = [text for key, name in names for text in (f"--{key}", f"language_model:{name}")]
    result = CliRunner().invoke(curv, ["analyze", str(tmp_path / "net.pt"), *options, "--eigmax"])
    sys.modules.pop("language_model")
    assert result.exit_code == 0, result.output
    assert number("λ_max", printed) == pytest.approx(number("λ_max", result.output), rel=1e-4)


def test_the_sheet_of_corruptions_is_drawn(
    real_cifar10: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheet = tmp_path / "sheet.png"
    monkeypatch.setattr(sys, "argv", ["corruption_sheet.py", str(real_cifar10), str(sheet)])
    runpy.run_path(str(EXAMPLES / "corruption_sheet.py"), run_name="__main__")
    assert sheet.read_bytes().startswith(b"\x89PNG")
