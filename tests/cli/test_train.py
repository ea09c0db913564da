"""`curv train` as people type it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from click.testing import Result

from curvature.runs.checkpoint import load_checkpoint
from curvature.runs.config import RunConfig
from curvature.runs.table import read_rows

Curv = Callable[..., Result]
QUICK = ("--epochs", 2, "--batch-size", 200)


def test_trains_and_says_what_to_do_next(curv: Curv, tmp_path: Path) -> None:
    result = curv("train", *QUICK, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    path = tmp_path / RunConfig(epochs=2, batch_size=200).id / "checkpoint.pt"
    assert "test: digits" in result.stdout
    accuracy = load_checkpoint(path).metrics["test_accuracy"]
    assert f"{accuracy:.2%}" in result.stdout
    assert result.stderr.endswith(f"Its curvature: curv analyze {path} --trace --eigmax\n")
    analysed = curv("analyze", path, "--eigmax", "--examples", 50, "--json", "--quiet")
    assert analysed.exit_code == 0, analysed.output
    assert json.loads(analysed.stdout)[0]["run"] == path.parent.name


def test_json_says_all_of_it_and_nothing_else(curv: Curv, tmp_path: Path) -> None:
    options = ("--optimizer", "sa-sam", "--lr", 0.01, "--optimizer-option", "growth=0.02")
    result = curv("train", *QUICK, *options, "--out", tmp_path, "--json", "--quiet")
    assert result.stderr == ""
    answer = json.loads(result.stdout)
    assert answer["status"] == "done"
    assert (answer["epoch"], answer["step"]) == (2, 12)
    checkpoint = load_checkpoint(answer["checkpoint"])
    assert checkpoint.config is not None
    assert checkpoint.config.id == answer["run"]
    assert checkpoint.config.optimizer_options == ("growth=0.02",)
    assert {(row["split"], row["metric"]) for row in answer["rows"]} == {
        (split, metric)
        for split in ("val", "test")
        for metric in ("loss", "accuracy", "calibration_error")
    }


def test_again_does_nothing_and_restart_does(curv: Curv, tmp_path: Path) -> None:
    first = curv("train", *QUICK, "--out", tmp_path)
    again = curv("train", *QUICK, "--out", tmp_path)
    assert "done already" in again.stderr
    assert again.stdout == first.stdout
    afresh = curv("train", *QUICK, "--out", tmp_path, "--restart")
    assert "already" not in afresh.stderr
    assert afresh.stdout == first.stdout


def test_a_divergence_is_said_and_no_failure(curv: Curv, tmp_path: Path) -> None:
    result = curv("train", *QUICK, "--lr", "1e30", "--out", tmp_path)
    assert result.exit_code == 0
    assert "Diverged after step" in result.stderr
    assert "last finite weights" in result.stderr
    assert "Traceback" not in result.output
    assert result.output.count("try a smaller `lr`") == 1
    answer = json.loads(
        curv("train", *QUICK, "--lr", "1e30", "--out", tmp_path, "--json", "--quiet").stdout
    )
    assert answer["status"] == "diverged"
    assert load_checkpoint(answer["checkpoint"]).status == "diverged"


def test_checkpoints_are_kept_when_asked_for(curv: Curv, tmp_path: Path) -> None:
    curv("train", *QUICK, "--checkpoint-every", 2, "--out", tmp_path)
    kept = sorted(path.name for path in tmp_path.rglob("checkpoints/*"))
    assert kept == ["epoch-0000.pt", "epoch-0002.pt"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--optimizer", "adamw"), "There is no optimizer `adamw`. Did you mean `adam`?"),
        (("--optimizer", "sa-sam", "--schedule", "cosine"), "adapts its step size itself"),
        (("--data", "cifar10"), "needs its place on disk"),
        (("--data", "cifar10:/nowhere"), "/nowhere"),
        (("--model", "cnn:depth=3"), "has no option `depth`"),
        (("--model", "vgg19"), "at least 32×32"),
        (("--lr", "-1"), "`lr` must be above 0"),
        (("--device", "tpu"), "There is no device `tpu` here"),
        (("--loss", "mse"), "`mse` needs targets in the outputs' shape"),
        (("--evaluate-on", "mnist"), "There is no data set `mnist`"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_line(
    curv: Curv, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    result = curv("train", *QUICK, *options, "--out", tmp_path)
    assert result.exit_code == 2, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("curv: ")
    assert says in lines[0]


def test_tensorboard_gets_every_row(
    curv: Curv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in for the writer: TensorBoard is an extra that need not be installed."""
    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            written.append((folder, 0, 0))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def flush(self) -> None: ...

    module = ModuleType("torch.utils.tensorboard")
    vars(module).update(SimpleNamespace(SummaryWriter=Writer).__dict__)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    result = curv("train", *QUICK, "--tensorboard", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    folder = tmp_path / RunConfig(epochs=2, batch_size=200).id
    assert written[0][0] == str(folder / "tensorboard")
    rows = read_rows(folder / "history.jsonl")
    losses = [(value, step) for name, value, step in written if name == "val_loss"]
    assert losses == [(row["val_loss"], row["step"]) for row in rows]


def test_without_tensorboard_it_says_what_to_install(
    curv: Curv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    result = curv("train", *QUICK, "--tensorboard", "--out", tmp_path)
    assert result.exit_code == 2
    assert "pip install 'curvature-toolkit[tensorboard]'" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_is_evaluated_on_what_is_asked_later(curv: Curv, tmp_path: Path) -> None:
    curv("train", *QUICK, "--out", tmp_path)
    later = (*QUICK, "--out", tmp_path, "--evaluate-on", "digits:validation=0.4")
    result = curv("train", *later)
    assert "done already" in result.stderr
    assert "evaluated on test of digits:validation=0.4" in result.stderr
    assert result.stdout.count("test: digits") >= 2
    (path,) = set(tmp_path.rglob("evaluation-*.jsonl")) - {
        *tmp_path.rglob("evaluation-val.jsonl"),
        *tmp_path.rglob("evaluation-test.jsonl"),
    }
    assert {row["metric"] for row in read_rows(path)} == {"loss", "accuracy", "calibration_error"}
    assert "nothing to do" in curv("train", *later).stderr


def test_a_rate_that_no_network_can_hold_is_refused_by_name(curv: Curv, tmp_path: Path) -> None:
    result = curv("train", "--optimizer", "sam", "--lr", "1e300", "--out", tmp_path)
    assert result.exit_code == 2
    assert result.stderr == "curv: `lr` must be below 3.4e+38, got 1e+300.\n"
