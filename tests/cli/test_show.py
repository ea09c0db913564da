"""`curv show` on our checkpoints and on anyone's files; the lists of what can be named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from torch import nn

from curvature.datasets import DATASETS
from curvature.losses import LOSSES
from curvature.models import MODELS
from curvature.optimizers import OPTIMIZERS
from curvature.runs.checkpoint import load_checkpoint

Curv = Callable[..., Result]


def answer(result: Result) -> list[dict]:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from curvature.runs.config import RunConfig
    from curvature.training import train

    config = RunConfig(optimizer="sa-sam", lr=0.01, epochs=1, batch_size=200)
    return train(config, tmp_path_factory.mktemp("runs")).checkpoint


def test_says_what_a_run_was(curv: Curv, trained: Path) -> None:
    (found,) = answer(curv("show", trained, "--json"))
    checkpoint = load_checkpoint(trained)
    assert checkpoint.config is not None
    assert found["config"] == json.loads(json.dumps(checkpoint.config.to_dict()))
    assert found["run"] == checkpoint.config.id
    assert found["metrics"]["test_accuracy"] == checkpoint.metrics["test_accuracy"]
    assert (found["status"], found["epoch"], found["step"]) == ("done", 1, 6)
    assert found["optimizer"]["groups"][0]["t"] == 6
    assert found["optimizer"]["state"] == {"previous": found["entries"]}
    assert found["versions"]["torch"] == torch.__version__
    text = curv("show", trained).stdout
    for expected in (found["run"], found["hash"], "optimizer=sa-sam", "hidden1.weight  64×64"):
        assert expected in text


def test_says_what_a_strangers_file_holds(curv: Curv, tmp_path: Path) -> None:
    model = nn.Linear(3, 2, dtype=torch.float16)
    path = tmp_path / "net.pth"
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, path)
    (found,) = answer(curv("show", path, "--json"))
    assert found["kind"] == "weights"
    assert found["bytes"] == path.stat().st_size
    assert found["tensors"] == [
        {"name": "weight", "shape": [2, 3], "dtype": "float16"},
        {"name": "bias", "shape": [2], "dtype": "float16"},
    ]
    assert any("removed the prefix `module.`" in note for note in found["notes"])
    text = curv("show", path).stdout
    assert "8 entries in 2 tensors" in text
    assert "note        took the weights under `state_dict`" in text


def test_tells_weights_that_are_no_numbers(curv: Curv, tmp_path: Path) -> None:
    torch.save({"w": torch.tensor([1.0, float("nan")]), "b": torch.tensor(1.0)}, tmp_path / "w.pt")
    result = curv("show", tmp_path / "w.pt")
    assert "NaN or infinite weights in `w` (1 of 2)" in result.stdout
    assert "scalar" in result.stdout


def test_executes_nothing(curv: Curv, tmp_path: Path) -> None:
    """A pickle that would write a file when it is loaded."""
    import pickle

    class Mean:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "executed",))

    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"w": Mean()}))
    result = curv("show", tmp_path / "evil.pt")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "executed").exists()


def test_exports_safetensors(curv: Curv, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    assert curv("show", trained, "--export", out, "--quiet").exit_code == 0
    ours, exported = load_checkpoint(trained), load_checkpoint(out)
    assert exported.hash == ours.hash
    assert exported.config == ours.config
    for names in ([trained, trained], [trained]):
        bad = curv("show", *names, "--export", tmp_path / "net.pt")
        assert bad.exit_code == 2
        assert "`--export` writes one FILE" in bad.stderr


@pytest.mark.parametrize(
    ("command", "table"),
    [
        ("models", MODELS),
        ("datasets", DATASETS),
        ("losses", LOSSES),
        ("optimizers", OPTIMIZERS),
    ],
)
def test_lists_what_can_be_named(curv: Curv, command: str, table: dict) -> None:
    found = answer(curv(command, "--json"))
    assert [entry["name"] for entry in found] == list(table)
    assert all(entry["about"] for entry in found)
    text = curv(command).stdout
    for name in table:
        assert name in text


def test_listed_options_are_those_that_can_be_given(curv: Curv) -> None:
    options = {entry["name"]: entry["options"] for entry in answer(curv("optimizers", "--json"))}
    assert options["msgd"] == {"momentum": 0.9, "nesterov": "false"}
    assert "growth" in options["sa-sam"]
    assert options["sgd"] == {}
