"""`curv train --track` and `curv curves`, as typed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image

from curvature.runs.config import RunConfig
from curvature.runs.table import read_rows

Curv = Callable[..., Result]

QUICK = ("--epochs", 2, "--batch-size", 200, "--model", "mlp:hidden=8,depth=1")
TRACK = ("--track", "eigmax,trace", "--track-every", 4, "--track-examples", 60)
CONFIG = RunConfig(epochs=2, batch_size=200, model="mlp:hidden=8,depth=1")


def test_the_rows_of_a_tracked_run_and_its_figure(curv: Curv, tmp_path: Path) -> None:
    done = curv("train", *QUICK, *TRACK, "--out", tmp_path / "with")
    assert done.exit_code == 0, done.output
    folder = tmp_path / "with" / CONFIG.id  # tracking is not in the id
    assert f"curv curves {folder}" in done.stderr
    rows = read_rows(folder / "rows" / "tracking.jsonl")
    assert [(row["step"], row["metric"]) for row in rows] == [
        (step, metric)
        for step in (4, 8, 12)
        for metric in ("eigmax", "trace", "stability_threshold")
    ]
    assert {(row["on"], row["examples"], row["run"]) for row in rows} == {("train", 60, CONFIG.id)}
    assert [row["value"] for row in rows[2::3]] == [20.0] * 3  # 2 / 0.1

    plain = curv("train", *QUICK, "--out", tmp_path / "without", "--json")
    tracked = curv("train", *QUICK, "--out", tmp_path / "with", "--json")
    values = [
        [(row["metric"], row["value"]) for row in json.loads(result.stdout)["rows"]]
        for result in (plain, tracked)
    ]
    assert values[0] == values[1]

    picture = tmp_path / "curves.png"
    drawn = curv("curves", tmp_path / "with", "--out", picture, "--panel", "eigmax", "--json")
    assert drawn.exit_code == 0, drawn.output
    with Image.open(picture) as image:
        assert image.width > 1000
    wide = [row for row in json.loads(drawn.stdout) if "eigmax" in row]
    assert [(row["step"], row["stability_threshold"]) for row in wide] == [
        (4, 20.0),
        (8, 20.0),
        (12, 20.0),
    ]
    assert "dashed" in drawn.stderr

    compared = curv("compare", tmp_path / "with", "--json", "--out", tmp_path / "compared.png")
    assert compared.exit_code == 0, compared.output
    assert "accuracy" in compared.stdout
    assert "eigmax" not in compared.stdout  # tracked, not analysed
    measured = curv("compare", folder, folder / "checkpoint.pt", "--eigmax", "--json")
    assert "hold the same weights" in measured.stderr  # its checkpoint, not its tracked rows
    page = curv("report", tmp_path / "with", "--out", tmp_path / "page.html")
    assert page.exit_code == 0, page.output
    assert "the λ_max from which full-batch steps diverge" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--track", "density"), "`metrics` are of eigmax, trace, got density"),
        (("--track", "trace", "--track-every", 0), "`every` must be at least 1 step"),
        (("--track", "trace", "--track-budget", 1), "`budget` must be at least 4 products"),
        (("--track", "trace", "--track-examples", 0), "--track-examples"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_line(
    curv: Curv, tmp_path: Path, options: tuple[object, ...], says: str
) -> None:
    result = curv("train", *QUICK, *options, "--out", tmp_path)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert says in line
    assert list(tmp_path.iterdir()) == []


def test_a_panel_that_there_is_not_is_refused(curv: Curv, tmp_path: Path) -> None:
    result = curv("curves", tmp_path, "--panel", "density")
    assert result.exit_code == 2
    assert "There is no panel `density`; there are train_loss" in result.stderr


def test_where_nothing_was_tracked_it_says_why(curv: Curv, tmp_path: Path) -> None:
    assert curv("train", *QUICK, "--out", tmp_path).exit_code == 0
    again = curv("train", *QUICK, *TRACK, "--out", tmp_path)
    assert again.exit_code == 0
    assert "No curvature was tracked: the run was done before (--restart" in again.stderr
