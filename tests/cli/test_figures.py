"""`curv table`, `heatmap`, `compare` and `report` as people type them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from curvature.runs.csv_table import read_csv, write_csv
from curvature.runs.table import read_rows, write_rows
from tests.statistics.tables import Row, grid

Curv = Callable[..., Result]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return grid(optimizers=("sgd", "sa-sam"), rates=(0.01, 0.1, 0.5), decays=(0.0, 1e-3))


@pytest.fixture
def runs(rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for run in {row["run"] for row in rows}:
        for analysis in {row["analysis"] for row in rows}:
            path = tmp_path / "runs" / run / "rows" / f"{analysis}.jsonl"
            own = [r for r in rows if (r["run"], r["analysis"]) == (run, analysis)]
            write_rows(path, own)
    return Path("runs")


def test_a_table_is_written_and_read_back(curv: Curv, runs: Path, rows: list[Row]) -> None:
    done = curv("table", runs)
    assert (done.exit_code, done.stdout) == (0, "table.csv\n")
    assert len(read_csv("table.csv")) == len(rows)
    done = curv("table", "table.csv", "--out", "deep/all.jsonl", "--where", "run.optimizer=sgd")
    assert done.exit_code == 0, done.output
    assert {row["run.optimizer"] for row in read_rows("deep/all.jsonl")} == {"sgd"}


def test_a_study_becomes_parquet_that_pandas_reads(curv: Curv, runs: Path, rows: list[Row]) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    done = curv("table", runs, "--out", "all.parquet")
    assert (done.exit_code, done.stdout) == (0, "all.parquet\n"), done.output
    frame = pandas.read_parquet("all.parquet")
    assert len(frame) == len(rows)
    assert frame["value"].isna().sum() == sum(row["value"] is None for row in rows)
    means = frame[frame["metric"] == "trace"].groupby("run.optimizer")["value"].mean()
    assert set(means.index) == {"sgd", "sa-sam"}
    done = curv("table", runs, "--format", "parquet")
    assert (done.exit_code, done.stdout) == (0, "table.parquet\n"), done.output


@pytest.mark.parametrize("name", ["a.png", "a.svg", "a.pdf"])
def test_a_heatmap_is_written_and_its_caption_said(curv: Curv, runs: Path, name: str) -> None:
    done = curv("heatmap", runs, "--metric", "trace", "--out", name)
    assert (done.exit_code, done.stdout) == (0, f"{name}\n"), done.output
    assert "12 cells have a value" in done.stderr
    assert Path(name).stat().st_size > 1000
    assert [path.name for path in Path().iterdir() if path.name.startswith(".")] == []


def test_a_heatmap_of_a_csv_file_is_that_of_the_folder(curv: Curv, runs: Path) -> None:
    curv("table", runs)
    for source, out in ((runs, "a.svg"), ("table.csv", "b.svg")):
        assert curv("heatmap", source, "--metric", "eigmax", "--out", out).exit_code == 0
    assert Path("a.svg").read_bytes() == Path("b.svg").read_bytes()


def test_a_comparison_names_settings_and_verdicts(curv: Curv, runs: Path) -> None:
    done = curv("compare", runs, "--out", "c.pdf")
    assert done.exit_code == 0, done.output
    assert "λ_max on test" in done.stdout
    assert Path("c.pdf").exists()
    found = json.loads(curv("compare", runs, "--json", "--quiet").stdout)
    assert {row["run.optimizer"] for row in found["best"]} == {"sgd", "sa-sam"}
    assert [v["metric"] for v in found["verdicts"]] == ["accuracy", "trace", "eigmax"]


def test_one_setting_each_needs_no_validation_data(
    curv: Curv, rows: list[Row], tmp_path: Path
) -> None:
    kept = [
        row
        for row in rows
        if (row["run.lr"], row["run.weight_decay"], row["split"]) == (0.1, 0.0, "test")
    ]
    write_csv(tmp_path / "one.csv", kept)
    done = curv("compare", tmp_path / "one.csv", "--metric", "trace")
    assert done.exit_code == 0, done.output


def test_a_table_made_by_hand_needs_few_columns(curv: Curv, tmp_path: Path) -> None:
    path = tmp_path / "hand.csv"
    lines = ["run.optimizer,run.lr,run.weight_decay,run.seed,split,metric,value"]
    for optimizer, first in (("sgd", 1.0), ("sam", 2.0)):
        lines += [f"{optimizer},0.1,0,{s},test,trace,{first + 0.1 * s}" for s in range(3)]
    path.write_text("\n".join(lines) + "\n")
    done = curv("heatmap", path, "--metric", "trace", "--out", tmp_path / "a.png")
    assert "2 of 2 cells have a value, over 3 seeds" in done.stderr, done.output
    done = curv("compare", path, "--out", tmp_path / "b.png")
    assert "sgd is flatter than sam: sam / sgd = 1.91" in done.stdout, done.output
    assert curv("report", path, "--out", tmp_path / "c.html").exit_code == 0


def test_a_report_is_one_file(curv: Curv, runs: Path) -> None:
    run = next(runs.iterdir())
    history = {"run": run.name, "epoch": 1, "train_loss": 0.5}
    (run / "history.jsonl").write_text(json.dumps(history) + "\n")
    config = {"optimizer": "sgd", "lr": 0.1, "weight_decay": 0.0, "optimizer_options": []}
    (run / "config.json").write_text(json.dumps({"config": config}))
    done = curv("report", runs, "--out", "r.html", "--made-by", "curv sweep grid.toml")
    assert (done.exit_code, done.stdout) == (0, "r.html\n"), done.output
    page = Path("r.html").read_text(encoding="utf-8")
    assert "curv sweep grid.toml" in page
    assert "curv report runs --out r.html" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("heatmap", "nowhere"), "no file of rows at nowhere"),
        (("heatmap", "runs", "--metric", "sharpness"), "there are accuracy, eigmax, trace"),
        (("heatmap", "runs", "--on", "cifar10c"), "there is accuracy on test, val"),
        (("heatmap", "runs", "--out", "a.gif"), "png, svg, pdf, not `gif`"),
        (("heatmap", "runs", "--out", "a"), "png, svg, pdf, not `nothing`"),
        (("heatmap", "runs", "--where", "run.lr"), "write COLUMN=VALUE"),
        (("heatmap", "runs", "--metric", "trace", "--statistic", "geometric"), "positive values"),
        (("table", "runs", "--out", "runs/all.jsonl"), "choose an --out outside"),
        (("compare", "runs", "--choose-by", "loss"), "No row is of the metric `loss`"),
        (("report", "empty"), "empty holds no rows"),
    ],
)
def test_bad_input_is_one_line(
    curv: Curv, runs: Path, arguments: tuple[str, ...], message: str
) -> None:
    Path("empty").mkdir()
    done = curv(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
