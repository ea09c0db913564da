"""`curv` on anyone's models, losses and data: by name, with options, several data at a time."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from curvature import names

Curv = Callable[..., Result]

MINE = """
import torch
from torch import nn

class Smooth(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * (1 - x.tanh() ** 2)

class Attend(nn.Module):
    def forward(self, x):
        h = x[..., None]
        return nn.functional.scaled_dot_product_attention(h, h, h)[..., 0]

class Once(nn.Module):
    def forward(self, x):
        return Smooth.apply(x)

class Noise(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x)

KINDS = {"tanh": nn.Tanh, "relu": nn.ReLU, "once": Once, "attend": Attend, "noise": Noise}

def net(*, width: int = 5, kind: str = "tanh", compiled: bool = False) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, width), KINDS[kind](), nn.Linear(width, 3))
    return torch.compile(model) if compiled else model

def data(split: str, n: int = 12):
    g = torch.Generator().manual_seed(["train", "val", "test"].index(split))
    return torch.randn(n, 4, generator=g), torch.randint(3, (n,), generator=g)

def doubles():
    x, y = data("test")
    return [(x.double(), y)]

class Augmented(torch.utils.data.Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, i):
        x, y = data("test")
        return x[i] + torch.randn(4), y[i]

def augmented():
    return torch.utils.data.DataLoader(Augmented(), batch_size=5)

def shuffled():
    return torch.utils.data.DataLoader(list(zip(*data("test"))), batch_size=5, shuffle=True)

def focal(outputs, targets, gamma: float = 2.0):
    log_p = outputs.log_softmax(1).gather(1, targets[:, None])[:, 0]
    return -((1 - log_p.exp()) ** gamma) * log_p
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a module of one's own and its checkpoint."""
    (tmp_path / "curv_mine.py").write_text(MINE)
    generator = torch.Generator().manual_seed(3)
    state = {
        "0.weight": torch.randn(5, 4, generator=generator),
        "0.bias": torch.randn(5, generator=generator),
        "2.weight": torch.randn(3, 5, generator=generator),
        "2.bias": torch.randn(3, generator=generator),
    }
    torch.save(state, tmp_path / "net.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "curv_mine", raising=False)
    return tmp_path


def analysed(curv: Curv, *args: Any, path: str = "net.pt") -> list[dict[str, Any]]:
    result = curv("analyze", path, *args, "--dtype", "float64", "--json")
    assert result.exit_code == 0, result.output
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


def value(rows: list[dict[str, Any]], metric: str) -> float:
    (found,) = [row["value"] for row in rows if row["metric"] == metric]
    return float(found)


def top(loss: Callable[[Tensor, Tensor], Tensor], split: str, n: int = 12) -> float:
    """λ_max of the dense Hessian, by jacfwd(grad) of the network written out."""
    import curv_mine

    x, y = curv_mine.data(split, n)
    state = torch.load("net.pt", weights_only=True)
    w = torch.cat([state[k].double().reshape(-1) for k in state])

    def value(w: Tensor) -> Tensor:
        a, b, c, d = w.split([20, 5, 15, 3])
        hidden = torch.tanh(x.double() @ a.view(5, 4).T + b)
        return loss(hidden @ c.view(3, 5).T + d, y)

    H = torch.func.jacfwd(torch.func.grad(value))(w)
    return float(torch.linalg.eigvalsh(H)[-1])


MODEL = ("--model", "curv_mine:net")
TYPED = (*MODEL, "--data", "curv_mine:data")


def test_a_model_data_and_a_loss_of_ones_own(curv: Curv) -> None:
    import_path = ("--loss", "curv_mine:focal", "--loss-option", "gamma=1")
    found = analysed(curv, *TYPED, *import_path, "--eigmax")

    def focal(f: Tensor, y: Tensor) -> Tensor:
        p = F.softmax(f, 1).gather(1, y[:, None])
        return -((1 - p) * p.log()).mean()

    assert value(found, "eigmax") == pytest.approx(top(focal, "test"), rel=1e-3)


def test_an_option_is_the_same_in_the_name_and_beside_it(curv: Curv) -> None:
    beside = analysed(curv, *TYPED, "--eigmax", "--model-option", "width=5", "--data-option", "n=9")
    within = analysed(
        curv, "--model", "curv_mine:net,width=5", "--data", "curv_mine:data,n=9", "--eigmax"
    )
    assert [row["analysis"] for row in beside] == [row["analysis"] for row in within]
    assert value(beside, "eigmax") == value(within, "eigmax")
    assert {row["examples"] for row in beside} == {9}
    assert value(beside, "eigmax") == pytest.approx(top(F.cross_entropy, "test", 9), rel=1e-3)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (
            (*TYPED, "--model-option", "wdth=5"),
            "has no option `wdth`. It has width, kind, compiled",
        ),
        ((*TYPED, "--model-option", "width=five"), "`width` of the model .* is a whole number"),
        ((*TYPED, "--model-option", "compiled=perhaps"), "is true or false, not `perhaps`"),
        ((*TYPED, "--model-option", "width"), "`width` is not an option; write key=value"),
        ((*TYPED, "--model-option", "width=5,6"), "holds a comma"),
        ((*TYPED, "--loss-option", "gamma=1"), "`--loss-option` belongs to a `--loss`"),
        ((*TYPED, "--data-option", "m=1"), "has no option `m`. It has split, n"),
        (("--model", "curv_mine:nett", "--data", "digits"), "it has Smooth, Attend, .*net"),
        ((*MODEL, "--data", "curv_mine:shuffled"), "shuffles"),
        ((*MODEL, "--data", "curv_mine:augmented"), "augmentation or random sampling"),
        ((*TYPED, "--model-option", "kind=noise"), r"`1` \(Noise\) draws random numbers"),
        ((*TYPED, "--model-option", "kind=once"), "`Smooth` has no second derivative .*--products"),
        ((*TYPED, "--model-option", "kind=relu", "--products", "differences"), "gradient jumps"),
        ((*TYPED, "--backend", "pyhessian", "--products", "differences"), "PyHessian takes no"),
    ],
)
def test_what_is_wrong_is_one_line(curv: Curv, args: tuple[Any, ...], says: str) -> None:
    result = curv("analyze", "net.pt", *args)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()[-1:]
    assert line.startswith("curv: ")
    assert re.search(says, line), line


def test_data_given_twice_are_measured_apart(curv: Curv, here: Path) -> None:
    both = ("--data", "curv_mine:data", "--data", "curv_mine:data,n=7", "--split", "train")
    rows = analysed(curv, *MODEL, *both, "--split", "test", "--eigmax", "--out", "rows.csv")
    found = {row["on"]: row["value"] for row in rows if row["metric"] == "eigmax"}
    expected = {
        "curv_mine:data train": top(F.cross_entropy, "train"),
        "curv_mine:data": top(F.cross_entropy, "test"),
        "curv_mine:data,n=7 train": top(F.cross_entropy, "train", 7),
        "curv_mine:data,n=7": top(F.cross_entropy, "test", 7),
    }
    assert found == pytest.approx(expected, rel=1e-3)
    with (here / "rows.csv").open() as file:
        assert {row["on"] for row in csv.DictReader(file)} == set(expected)
    shown = curv("analyze", "net.pt", *MODEL, *both, "--eigmax").stdout
    assert "net.pt on curv_mine:data" in shown
    assert "net.pt on curv_mine:data,n=7" in shown


def test_a_failure_on_one_says_which_and_loses_none(curv: Curv, here: Path) -> None:
    asked = ("--data", "npz:absent.npz", "--data", "curv_mine:data", "--eigmax")
    result = curv("analyze", "net.pt", *MODEL, *asked, "--json", "--quiet", "--out", "rows.jsonl")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("curv: net.pt on npz:absent.npz: absent.npz can't be read")
    rows = json.loads(result.stdout)
    assert {row["on"] for row in rows} == {"curv_mine:data"}
    assert len((here / "rows.jsonl").read_text().splitlines()) == len(rows)


def test_splits_of_a_runs_own_data(curv: Curv, checkpoint: Path) -> None:
    asked = ("--data", "val", "--data", "test", "--first", 20, "--eigmax", "--json")
    result = curv("analyze", checkpoint, *asked)
    assert result.exit_code == 0, result.output
    assert {row["on"] for row in json.loads(result.stdout)} == {"val", "test"}


def test_files_of_arrays_and_folders_of_images(curv: Curv, here: Path) -> None:
    import curv_mine

    x, y = curv_mine.data("test")
    np.savez(here / "mine.npz", x=x.numpy(), y=y.numpy())
    found = analysed(curv, *MODEL, "--data", "npz:mine.npz", "--eigmax")
    assert value(found, "eigmax") == pytest.approx(top(F.cross_entropy, "test"), rel=1e-3)
    for label in ("cat", "dog"):
        (here / "pictures" / label).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (8, 8), (40 * i, 9, 60)).save(here / f"pictures/{label}/{i}.png")
    torch.save(torch.nn.Linear(192, 2).state_dict(), here / "images.pt")
    (here / "curv_flat.py").write_text(
        "from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), Named())\n"
        "class Named(nn.Linear):\n    def __init__(self): super().__init__(192, 2)\n"
    )
    state = {f"1.{k}": v for k, v in torch.load(here / "images.pt", weights_only=True).items()}
    torch.save(state, here / "images.pt")
    asked = ("--model", "curv_flat:net", "--data", "images:pictures", "--eigmax")
    assert analysed(curv, *asked, path="images.pt")[0]["examples"] == 6


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (("--model-option", "compiled=true"), "torch.compile taken off"),
        (("--model-option", "kind=attend"), "attention is computed by the plain kernel"),
        (("--model-option", "kind=once", "--products", "differences"), ""),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile's own import
def test_a_rescue_is_said_and_right(curv: Curv, kind: tuple[str, ...], says: str) -> None:
    asked = (*TYPED, *kind, "--eigmax", "--dtype", "float64")
    result = curv("analyze", "net.pt", *asked)
    assert result.exit_code == 0, result.output
    assert says in result.stderr
    if "kind=attend" not in kind:
        rows = analysed(curv, *TYPED, *kind, "--eigmax")
        assert value(rows, "eigmax") == pytest.approx(top(F.cross_entropy, "test"), rel=1e-3)
    if "differences" in kind:
        (row,) = [row for row in rows if row["metric"] == "eigmax"]
        assert row["products"].startswith("central differences of the gradient, error ")
        assert 0 < row["products_error"] < 1e-6
        assert "lanczos by differences (error " in result.stdout


def test_half_weights_and_double_batches_are_measured_in_float32(curv: Curv, here: Path) -> None:
    state = {k: v.half() for k, v in torch.load(here / "net.pt", weights_only=True).items()}
    torch.save({"net": state, "epoch": 3}, here / "half.pt")
    result = curv("analyze", "half.pt", *MODEL, "--data", "curv_mine:doubles", "--eigmax", "--json")
    assert result.exit_code == 0, result.output
    assert "took the weights under `net`" in result.stderr
    assert "converted 4 tensors from torch.float16 to torch.float32" in result.stderr
    torch.save({k: v.float() for k, v in state.items()}, here / "net.pt")
    found = value(json.loads(result.stdout), "eigmax")
    assert found == pytest.approx(top(F.cross_entropy, "test"), rel=1e-3)


@pytest.mark.parametrize(
    ("words", "offered", "not_offered"),
    [
        ("curv analyze --model res", {"resnet20", "resnet32", "resnet56"}, {"vgg19"}),
        ("curv analyze --data ci", {"cifar10", "cifar10c"}, {"digits"}),
        ("curv train --optimizer sa", {"sam", "sa-sgd", "sa-sam"}, {"sgd"}),
        ("curv sweep --optimizers sgd,sa-", {"sgd,sa-sgd", "sgd,sa-sam"}, {"sgd,sam"}),
        ("curv analyze --loss n", {"nll", "next_token"}, {"mse"}),
        ("curv analyze --trace-m", {"--trace-method"}, {"--trace"}),
        ("curv com", {"compare"}, {"train"}),
    ],
)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes(
    shell: str,
    words: str,
    offered: set[str],
    not_offered: set[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from click.shell_completion import shell_complete
    from curvature_cli.main import main

    last = words.split()[-1]
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", last if shell == "fish" else str(len(words.split()) - 1))
    assert shell_complete(main, {}, "curv", "_CURV_COMPLETE", f"{shell}_complete") == 0
    found = set(re.split(r"\s|plain,", capsys.readouterr().out))
    assert offered <= found
    assert not found & not_offered


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_lines_for_a_shell_are_printed(shell: str) -> None:
    code = "from curvature_cli.main import main; main(prog_name='curv')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"_CURV_COMPLETE": f"{shell}_source", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "_CURV_COMPLETE" in done.stdout


def test_options_are_put_into_a_name() -> None:
    assert names.with_options("mine:net,a=1", ["b=2"]) == "mine:net,a=1,b=2"
    assert names.with_options("npz:data,x", ["b=2"], ["npz"]) == "npz:data,x,b=2"
    with pytest.raises(ValueError, match="`a` is given twice: in `mine:net,a=1` and as `a=2`"):
        names.with_options("mine:net,a=1", ["a=2"])
