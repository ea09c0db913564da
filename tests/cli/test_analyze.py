"""`curv analyze` as people type it: numbers against dense oracles, and one line for bad input."""

import dataclasses
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import Result
from torch import Tensor
from torch.nn import functional as F

from curvature import datasets, models
from curvature.datasets.batches import choose
from curvature.runs.checkpoint import load_checkpoint, save_checkpoint
from curvature.runs.csv_table import read_csv

Curv = Callable[..., Result]
FEW = ("--examples", 60, "--batch-size", 25, "--dtype", "float64")


@pytest.fixture(scope="module")
def dense(checkpoint: Path) -> Tensor:
    """The Hessian on the same 60 test images by jacfwd(grad), which none of ours uses."""
    data = choose(
        datasets.load("digits", "test"), examples=60, generator=torch.Generator().manual_seed(0)
    )
    model = models.build("mlp:hidden=8,depth=1", input_shape=(1, 8, 8), classes=10).double()
    model.load_state_dict(load_checkpoint(checkpoint).weights)
    names, values = zip(*model.named_parameters(), strict=True)
    x = data.normalized(data.inputs).double()

    def loss(w: Tensor) -> Tensor:
        pieces = w.split([v.numel() for v in values])
        params = {n: p.view_as(v) for n, p, v in zip(names, pieces, values, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, params, (x,)), data.targets)

    w = torch.cat([v.detach().reshape(-1) for v in values])
    return torch.func.jacfwd(torch.func.grad(loss))(w)


def rows_of(result: Result) -> dict[tuple[str, int], dict]:
    assert result.exit_code == 0, result.output
    return {(row["metric"], row["index"]): row for row in json.loads(result.stdout)}


def test_numbers_agree_with_the_dense_hessian(curv: Curv, checkpoint: Path, dense: Tensor) -> None:
    rows = rows_of(
        curv("analyze", checkpoint, *FEW, "--trace", "--top", 3, "--eigmin", "--json", "--quiet")
    )
    values = torch.linalg.eigvalsh(dense).flip(0).tolist()
    for k in range(3):
        assert rows["eigenvalue", k]["value"] == pytest.approx(values[k], rel=1e-3)
    assert rows["eigmax", 0]["value"] == rows["eigenvalue", 0]["value"]
    assert rows["eigmin", 0]["value"] == pytest.approx(values[-1], rel=1e-3)
    trace = rows["trace", 0]
    assert abs(trace["value"] - dense.trace()) <= 4 * trace["standard_error"]
    assert trace["converged"]
    assert trace["standard_error"] <= 0.01 * trace["value"]


def test_power_iteration_agrees_with_lanczos(curv: Curv, checkpoint: Path, dense: Tensor) -> None:
    rows = rows_of(
        curv("analyze", checkpoint, *FEW, "--eigmax", "--eigmax-method", "power", "--json")
    )
    top = float(torch.linalg.eigvalsh(dense)[-1])
    assert rows["eigmax", 0]["value"] == pytest.approx(top, rel=2e-3)


def test_weight_decay_is_counted_in_when_asked(curv: Curv, checkpoint: Path) -> None:
    asked = ("analyze", checkpoint, *FEW, "--eigmax", "--json", "--quiet")
    without = rows_of(curv(*asked))["eigmax", 0]
    counted = rows_of(curv(*asked, "--with-weight-decay"))["eigmax", 0]
    assert counted["value"] - without["value"] == pytest.approx(0.5, abs=2e-2)
    assert (without["weight_decay_counted"], counted["weight_decay_counted"]) == (0.0, 0.5)


def test_a_seed_gives_the_same_rows_but_for_the_time(curv: Curv, checkpoint: Path) -> None:
    asked = ("analyze", checkpoint, *FEW, "--max-passes", 10, "--json", "--quiet")
    first, second = rows_of(curv(*asked)), rows_of(curv(*asked))
    for row in (*first.values(), *second.values()):
        del row["seconds"]
    assert first == second


def test_an_unconverged_trace_says_so(curv: Curv, checkpoint: Path) -> None:
    asked = ("--trace", "--trace-method", "hutchinson", "--max-passes", 8)
    result = curv("analyze", checkpoint, *FEW, *asked)
    (row,) = [line for line in result.stdout.splitlines() if line.startswith("Tr(H)")]
    assert re.search(r"NOT CONVERGED, hutchinson, 8 passes, \d+\.\d s$", row)  # not folded
    assert result.exit_code == 0


def test_rows_are_written_whole_and_carry_their_provenance(
    curv: Curv, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    assert curv("analyze", checkpoint, *FEW, "--eigmax", "--out", out, "--quiet").exit_code == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["metric"] for row in rows} >= {"loss", "accuracy", "weight_norm", "eigmax"}
    for row in rows:
        assert row["checkpoint_hash"] == load_checkpoint(checkpoint).hash
        assert (row["split"], row["examples"], row["reduction"]) == ("test", 60, "mean")
        assert row["run.weight_decay"] == 0.5
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


def test_pyhessian_answers_with_what_it_lacks(curv: Curv, checkpoint: Path, dense: Tensor) -> None:
    rows = rows_of(
        curv("analyze", checkpoint, "--examples", 60, "--backend", "pyhessian", "--json")
    )
    top = float(torch.linalg.eigvalsh(dense)[-1])
    assert rows["eigmax", 0]["value"] == pytest.approx(top, rel=2e-2)
    assert "stops when successive" in rows["trace", 0]["message"]


def nan_weights(folder: Path) -> Path:
    path = folder / "nan.pt"
    torch.save({"fc.weight": torch.full((2, 2), float("nan"))}, path)
    return path


def malicious(folder: Path) -> Path:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.system, (f"touch {folder}/canary",)

    path = folder / "evil.pt"
    torch.save({"fc.weight": Evil()}, path)
    return path


def text_file(folder: Path) -> Path:
    path = folder / "notes.pt"
    path.write_text("not a checkpoint")
    return path


BAD = [
    ("a missing file", lambda folder: folder / "absent.pt", (), "absent.pt"),
    ("not a checkpoint", text_file, (), "notes.pt"),
    ("a malicious pickle", malicious, (), "system"),
    ("NaN weights", nan_weights, ("--model", "mlp", "--data", "digits"), "fc.weight"),
    ("a directory", lambda folder: folder, (), "director"),
]


@pytest.mark.parametrize(("make", "args", "words"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_input_is_one_line_and_exit_code_2(
    curv: Curv, tmp_path: Path, make: Callable[[Path], Path], args: tuple, words: str
) -> None:
    result = curv("analyze", make(tmp_path), *args)
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert words in result.stderr
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--model", "mlp:hidden=9,depth=1"), "fit"),
        (("--model", "resnet-20"), "Did you mean `resnet20`"),
        (("--data", "cifar10:/no/such/place"), "/no/such/place"),
        (("--data", "cifar11"), "cifar10"),
        (("--examples", 10**6), "1,000,000"),
        (("--examples", 5, "--first", 5), "first"),
        (("--loss", "no.module:loss"), "no.module"),
        (("--trace-rtol", -1), "trace_rtol"),
        (("--device", "cuda:7"), "cuda"),
        (("--params", "nothing.*"), "nothing.*"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(
    curv: Curv, checkpoint: Path, args: tuple, words: str
) -> None:
    result = curv("analyze", checkpoint, *args)
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert words in result.stderr


def test_help_names_every_option(curv: Curv) -> None:
    result = curv("analyze", "--help")
    for flag in ("--trace-rtol", "--top", "--split", "--examples", "--backend", "--json"):
        assert flag in result.stdout


def test_code_named_by_a_checkpoint_runs_only_when_trusted(
    curv: Curv, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "strange_model.py").write_text(
        f"open({str(canary)!r}, 'w').close()\n"
        "from curvature.models.mlp import mlp\n"
        "def factory(input_shape, classes):\n"
        "    return mlp(input_shape=input_shape, classes=classes, hidden=8, depth=1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    loaded = load_checkpoint(checkpoint)
    assert loaded.config is not None
    config = dataclasses.replace(loaded.config, model="strange_model:factory")
    path = tmp_path / "strange.pt"
    save_checkpoint(path, dataclasses.replace(loaded, config=config))
    asked = ("analyze", path, "--eigmax", "--examples", 20)
    refused = curv(*asked)
    assert refused.exit_code == 2
    assert "--trust" in refused.stderr
    assert not canary.exists()
    assert curv(*asked, "--trust").exit_code == 0
    assert canary.exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [("rows.parquet", "`--out` takes a file in .jsonl or .csv"), ("a.csv", "is a directory")],
)
def test_a_place_that_takes_no_rows_is_refused_before_the_work(
    curv: Curv, checkpoint: Path, tmp_path: Path, name: str, says: str
) -> None:
    (tmp_path / "a.csv").mkdir()
    result = curv("analyze", checkpoint, "--examples", 60, "--out", tmp_path / name)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_missing_checkpoint_is_refused_before_the_others_are_measured(
    curv: Curv, checkpoint: Path, tmp_path: Path
) -> None:
    result = curv("analyze", checkpoint, tmp_path / "no.pt", "--examples", 60)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"curv: There is no checkpoint at {tmp_path / 'no.pt'}.\n"


def test_what_is_measured_is_written_though_the_next_is_refused(
    curv: Curv, checkpoint: Path, tmp_path: Path
) -> None:
    bad, out = tmp_path / "bad.pt", tmp_path / "rows.csv"
    bad.write_bytes(b"no weights")
    result = curv("analyze", checkpoint, bad, "--eigmax", "--examples", 60, "--out", out)
    assert result.exit_code == 2
    assert f"{bad} is not a checkpoint" in result.stderr
    assert {row["metric"] for row in read_csv(out)} >= {"loss", "eigmax"}


def test_names_under_a_prefix_are_found_as_the_refusal_says(
    curv: Curv, checkpoint: Path, tmp_path: Path
) -> None:
    weights = {f"net.{k}": v for k, v in load_checkpoint(checkpoint).weights.items()}
    torch.save({**weights, "criterion.weight": torch.ones(3)}, tmp_path / "a.pt")
    asked = ("analyze", tmp_path / "a.pt", "--model", "mlp:hidden=8,depth=1", "--data", "digits")
    refused = curv(*asked, "--eigmax", "--examples", 60)
    assert "load with `--weights net.`" in refused.stderr
    found = curv(*asked, "--eigmax", "--examples", 60, "--weights", "net.")
    assert found.exit_code == 0, found.output


@pytest.mark.parametrize("loss", [(), ("--loss", "cross_entropy:label_smoothing=0.1")])
def test_label_smoothing_of_the_training_is_told_where_it_is_left_out(
    curv: Curv, checkpoint: Path, tmp_path: Path, loss: tuple[str, ...]
) -> None:
    there = load_checkpoint(checkpoint)
    assert there.config is not None
    smoothed = replace(there, config=replace(there.config, label_smoothing=0.1))
    save_checkpoint(tmp_path / "a.pt", smoothed)
    said = curv("analyze", tmp_path / "a.pt", "--eigmax", "--examples", 60, *loss).stderr
    assert ("trained with label smoothing 0.1, measured without" in said) is not bool(loss)


def test_ctrl_c_keeps_what_is_finished_of_the_checkpoint(
    curv: Curv, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **keywords: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("curvature.analysis.measured.trace", interrupted)
    out = tmp_path / "rows.csv"
    result = curv("analyze", checkpoint, *FEW, "--eigmax", "--trace", "--out", out)
    assert result.exit_code == 130
    assert f"{checkpoint} (interrupted)" in result.stdout
    assert "λ_max" in result.stdout
    assert "only what was finished is kept" in result.stderr
    metrics = {row["metric"] for row in read_csv(out)}
    assert "eigmax" in metrics
    assert "trace" not in metrics


def test_a_file_that_is_no_table_is_not_replaced(
    curv: Curv, checkpoint: Path, tmp_path: Path
) -> None:
    notes = tmp_path / "notes.csv"
    notes.write_text("dear diary,\n")
    refused = curv("analyze", checkpoint, *FEW, "--eigmax", "--out", notes)
    assert refused.exit_code == 2
    assert "holds no rows of ours" in refused.stderr
    assert notes.read_text() == "dear diary,\n"
    for name in ("rows.csv", "rows.jsonl"):
        asked = ("analyze", checkpoint, *FEW, "--eigmax", "--out", tmp_path / name)
        assert [curv(*asked).exit_code for _ in range(2)] == [0, 0]
    for kind in ("csv", "jsonl", "parquet"):
        asked = ("table", tmp_path / "rows.csv", "--out", tmp_path / f"table.{kind}")
        assert [curv(*asked).exit_code for _ in range(2)] == [0, 0]
    refused = curv("table", tmp_path / "rows.csv", "--out", notes)
    assert (refused.exit_code, notes.read_text()) == (2, "dear diary,\n")


def test_a_loss_that_cannot_be_split_names_the_option(curv: Curv, checkpoint: Path) -> None:
    loss = ("--loss", "tests.training.networks:whole", "--trace-method", "split")
    result = curv("analyze", checkpoint, "--trace", *loss)
    assert result.exit_code == 2
    assert "or `--trace-method hutchinson`" in result.stderr
