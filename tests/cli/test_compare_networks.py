"""`curv compare` of single networks, as people type it; and what it refuses."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import Result

from curvature.analysis import analyze
from curvature.comparison import measuring
from curvature.runs.checkpoint import load_checkpoint, save_checkpoint
from curvature.runs.csv_table import read_csv
from curvature.runs.table import read_rows, write_rows
from tests.statistics.tables import grid

Curv = Callable[..., Result]
FEW = ("--examples", 60, "--max-passes", 10, "--trace-method", "exact")
SMOOTHED = "cross_entropy:label_smoothing=0.1"
MODEL = ("--model", "mlp:hidden=8,depth=1", "--data", "digits")


@pytest.fixture(autouse=True)
def here(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours a.pt and b.pt, b's weights twice as large; a stranger's, and one that diverged."""
    monkeypatch.chdir(tmp_path)
    ours = load_checkpoint(checkpoint)
    twice = {name: 2 * weight for name, weight in ours.weights.items()}
    gone = {name: torch.full_like(weight, torch.nan) for name, weight in ours.weights.items()}
    save_checkpoint("a.pt", ours)
    assert ours.config is not None
    save_checkpoint("b.pt", replace(ours, weights=twice, config=replace(ours.config, seed=1)))
    torch.save({"state_dict": {f"module.{k}": 0.5 * v for k, v in twice.items()}}, "same.pt")
    torch.save({f"module.{k}": 1.5 * v for k, v in twice.items()}, "stranger.pt")
    torch.save(gone, "gone.pt")
    smoothed = replace(ours.config, loss=SMOOTHED)
    save_checkpoint("smoothed.pt", replace(ours, weights=twice, config=smoothed))
    write_rows("study.jsonl", grid(optimizers=("sgd", "sam"), rates=(0.1,), decays=(0.0,)))


def test_two_checkpoints_are_measured_told_apart_and_drawn(curv: Curv) -> None:
    done = curv("compare", "a.pt", "b.pt", *FEW, "--out", "c.svg", "--table", "rows.jsonl")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["accuracy", "Tr(H)", "λ_max", "loss", "‖w‖"]
    assert lines[1].startswith("a.pt ")
    assert lines[4].startswith("against a.pt, with intervals that hold together at 95 %")
    assert lines[6].startswith("b.pt ")
    assert "× " in lines[6]
    assert lines[-2:] == ["rows.jsonl", "c.svg"]
    figure = Path("c.svg").read_text(encoding="utf-8")
    assert ">a.pt<" in figure
    assert "nothing is said of the optimizers" in done.stderr
    alone = {
        (name, row["metric"]): row["value"]
        for name in ("a.pt", "b.pt")
        for row in json.loads(curv("analyze", name, *FEW, "--json", "--quiet").stdout)
    }
    assert {(r["name"], r["metric"]): r["value"] for r in read_rows("rows.jsonl")} == alone


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_its_own_table_is_compared_without_measuring(curv: Curv, suffix: str) -> None:
    asked = ("--json", "--quiet")
    first = curv("compare", "a.pt", "b.pt", *FEW, *asked, "--table", f"t.{suffix}")
    again = curv("compare", f"t.{suffix}", *asked)
    assert (first.exit_code, again.exit_code) == (0, 0), again.output
    first, again = json.loads(first.stdout), json.loads(again.stdout)
    assert again["networks"] == ["a.pt", "b.pt"]
    for one, other in zip(first["differences"], again["differences"], strict=True):
        assert one["value"] == pytest.approx(other["value"])
        if one["metric"] != "accuracy":  # that of files isn't paired
            assert (one["word"], one["low"]) == (other["word"], pytest.approx(other["low"]))


def test_an_interrupted_comparison_goes_on_from_its_table(
    curv: Curv, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def stopped(*args: object, **options: object) -> object:
        calls.append(args)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return analyze(*args, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(measuring, "analyze", stopped)
        assert curv("compare", "a.pt", "b.pt", *FEW, "--table", "rows.jsonl").exit_code == 130
    assert {row["name"] for row in read_rows("rows.jsonl")} == {"a.pt"}
    again = curv("compare", "rows.jsonl", "b.pt", *FEW, "--label", "a.pt", "--label", "b.pt")
    assert again.exit_code == 0, again.output


def test_rows_of_analyze_stand_beside_a_stranger(curv: Curv) -> None:
    assert curv("analyze", "a.pt", "b.pt", *FEW, "--out", "rows.jsonl").exit_code == 0
    labels = ("--label", "Stranger=stranger.pt")
    done = curv("compare", "rows.jsonl", "stranger.pt", *FEW, *MODEL, *labels, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["networks"] == ["a.pt", "b.pt", "Stranger"]


def test_a_table_may_be_parquet(curv: Curv) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    done = curv("compare", "a.pt", "b.pt", *FEW, "--table", "rows.parquet")
    assert done.exit_code == 0, done.output
    frame = pandas.read_parquet("rows.parquet")
    assert set(frame["name"]) == {"a.pt", "b.pt"}
    assert curv("compare", "a.pt", "b.pt", *FEW, "--table", "rows.csv").exit_code == 0
    assert len(read_csv("rows.csv")) == len(frame)


def test_what_diverged_is_said_and_not_drawn(curv: Curv) -> None:
    done = curv("compare", "gone.pt", "a.pt", "b.pt", *FEW, *MODEL, "--out", "c.pdf")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[1].split() == ["gone.pt", *["diverged"] * 3, "–", "–"]
    assert "against a.pt" in done.stdout
    assert "1 diverged and is not drawn" in done.stderr


def test_what_is_asked_for_is_measured_and_nothing_else(curv: Curv) -> None:
    done = curv("compare", "a.pt", "b.pt", "--examples", 60, "--eigmax", "--json", "--quiet")
    assert done.exit_code == 0, done.output
    metrics = {row["metric"] for row in json.loads(done.stdout)["rows"]}
    assert "eigmax" in metrics
    assert "trace" not in metrics


def test_the_networks_are_held_against_the_one_that_is_named(curv: Curv) -> None:
    named = ("--label", "one", "--label", "two", "--against", "two")
    done = curv("compare", "a.pt", "b.pt", *FEW, *named, "--metric", "trace", "--json")
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)["differences"]
    assert (found["name"], found["against"], found["metric"]) == ("one", "two", "trace")


def test_a_table_of_a_study_is_still_one(curv: Curv) -> None:
    done = curv("compare", "study.jsonl")
    assert done.exit_code == 0, done.output
    assert "sgd" in done.stdout
    assert "n=3" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing argument 'SOURCES...'"),
        (("a.pt",), "needs two networks, got 1"),
        (("a.pt", "a.pt"), "a.pt was given twice"),
        (("a.pt", "same.pt", *MODEL), "a.pt and same.pt hold the same weights"),
        (("a.pt", "nowhere.pt"), "no checkpoint at nowhere.pt"),
        (
            ("a.pt", "stranger.pt"),
            "stranger.pt: The checkpoint doesn't say its model: add `--model",
        ),
        (("a.pt", "smoothed.pt"), f"`loss` is cross_entropy for a.pt, but {SMOOTHED}"),
        (("a.pt", "rows.jsonl"), "`examples` is 50 for rows.jsonl, but 359 for a.pt"),
        (("a.pt", "rows.jsonl", "--examples", 50, "--seed", 1), "`data_hash` is"),
        (("a.pt", "rows.jsonl", *FEW[:2], "--dtype", "float64"), "`examples` is 50"),
        (("a.pt", "rows.jsonl", "--examples", 50, "--dtype", "float64"), "`dtype` is float32"),
        (("a.pt", "rows.jsonl", "--examples", 50, "--split", "train"), "`split` is test"),
        (("gone.pt", "inf.pt", *MODEL), "None of the networks has a value"),
        (("a.pt", "b.pt", "--label", "x"), "2 networks and 1 of `--label`"),
        (("a.pt", "b.pt", "--label", "x=a.pt", "--label", "y=c.pt"), "`y=c.pt` labels no path"),
        (("a.pt", "b.pt", "--against", "c"), "no network c; there are a.pt, b.pt"),
        (("a.pt", "b.pt", "--out", "c.gif"), "png, svg, pdf, not `gif`"),
        (("a.pt", "b.pt", "--table", "c.txt"), "`--table` takes a file in .jsonl, .csv, .parquet"),
        (("a.pt", "b.pt", "--table", "notes.csv"), "notes.csv is there and holds no rows of ours"),
        (
            ("a.pt", "b.pt", "--metric", "sharpness"),
            "No metric `sharpness` is measured; there are loss, accuracy",
        ),
        (("a.pt", "b.pt", "--on", "val"), "a.pt is a single network, for which `--on` does noth"),
        (("study.jsonl", "--examples", 5), "study.jsonl is a study, for which `--examples` does"),
        (("a.pt", "study.jsonl"), "study.jsonl is a study of many runs: compare it alone"),
        (("a.pt", "folder"), "folder is a study of many runs"),
        (("a.pt", "nowhere.jsonl"), "no file of rows at nowhere.jsonl"),
        (("a.pt", "b.pt", "--table", "new/x.jsonl", "--against", "c"), "no network c"),
        (("a.pt", "b.pt", "--out", "a.pt/x.png"), "a.pt is a file"),
        (("a.pt", "saved"), "is a directory, not a checkpoint"),
        (("a.pt", "b.pt", "--examples", 0), "`examples` must be at least 1"),
    ],
)
def test_what_is_refused_is_one_line_and_nothing_is_written(
    curv: Curv, arguments: tuple[object, ...], message: str, tmp_path: Path
) -> None:
    Path("folder").mkdir()
    Path("saved").mkdir()
    Path("notes.csv").write_text("day,weather\n")
    Path("saved/config.json").write_text('{"architectures": ["Net"]}')
    weights = load_checkpoint("gone.pt").weights
    torch.save({name: torch.full_like(w, torch.inf) for name, w in weights.items()}, "inf.pt")
    few = ("--examples", 50, "--eigmax")
    assert curv("analyze", "b.pt", *few, "--out", "rows.jsonl", "--quiet").exit_code == 0
    before = sorted(tmp_path.iterdir())
    places = () if {"--out", "--table"} & set(arguments) else ("--out", "x.png")
    done = curv("compare", *arguments, *places, "--quiet")
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
    assert sorted(tmp_path.iterdir()) == before
