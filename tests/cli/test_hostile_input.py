"""Tables and names that nobody should give: one line, or a figure that shows them as text."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from curvature.runs.csv_table import write_csv
from curvature.runs.table import write_rows
from tests.report.test_page import Reader
from tests.statistics.tables import Row, grid

Curv = Callable[..., Result]
EVIL = "<script>alert(1)</script><svg onload=x>&\"'../../$\\frac{1}{0}$"
FIGURES = (
    ("heatmap", "--metric", "accuracy", "--out", "a.svg"),
    ("heatmap", "--metric", "trace", "--out", "b.svg"),
    ("compare", "--out", "c.svg"),
    ("report", "--out", "d.html"),
    ("table", "--out", "e.csv"),
)


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def small(**changes: Any) -> list[Row]:
    options: dict[str, Any] = {"optimizers": ("sgd", "sam"), "rates": (0.1, 0.5), "decays": (0.0,)}
    return grid(**{**options, **changes})


def assert_refused(done: Result, says: str = "") -> None:
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1), done.output
    assert done.stderr.startswith("curv: ")
    assert says in done.stderr
    assert done.stderr.strip().isprintable()
    assert "not supported" not in done.stderr  # Python's own words
    assert "format" not in done.stderr


def draw_all(curv: Curv, source: object) -> dict[str, Result]:
    return {args[-1]: curv(args[0], source, *args[1:]) for args in FIGURES}


# -- tables that are strange but sound --------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [
        small(decades=24.0),
        small(negative=1.0),
        small(optimizers=("sgd",), rates=(0.1,), seeds=1),
        [{**row, "run.lr": None} for row in small(rates=(0.1,))],
    ],
    ids=["over 24 decades", "negative traces", "a single cell", "no learning rate"],
)
def test_a_strange_table_is_drawn(rows: list[Row], curv: Curv) -> None:
    write_rows("rows.jsonl", rows)
    for name, done in draw_all(curv, "rows.jsonl").items():
        assert done.exit_code == 0, done.output
        assert Path(name).stat().st_size > 100
        assert "nan" not in done.output


def diverged(rows: list[Row], *optimizers: str) -> list[Row]:
    gone = {"value": None, "status": "diverged"}
    return [{**row, **gone} if row["run.optimizer"] in optimizers else row for row in rows]


def test_where_all_diverged_nothing_is_compared(curv: Curv) -> None:
    write_rows("rows.jsonl", diverged(small(), "sgd", "sam"))
    done = draw_all(curv, "rows.jsonl")
    assert "0 of 4 cells have a value; 4 diverged" in done["a.svg"].stderr
    assert_refused(done.pop("c.svg"), "No setting of sgd, sam has a value of accuracy")
    assert_refused(curv("compare", "rows.jsonl"), "all diverged or failed")
    assert {each.exit_code for each in done.values()} == {0}


def test_an_optimizer_that_always_diverged_is_named(curv: Curv) -> None:
    write_rows("rows.jsonl", diverged(small(), "sgd"))
    done = curv("compare", "rows.jsonl")
    assert done.exit_code == 0, done.output
    assert "sgd: no setting has a value of accuracy" in done.stderr


def test_a_table_of_nothing_is_refused(curv: Curv) -> None:
    Path("a.jsonl").write_text("\n\n")
    Path("a.csv").write_text("run,metric,value\n")
    Path("folder").mkdir()
    for source in ("a.jsonl", "a.csv", "folder"):
        for done in draw_all(curv, source).values():
            assert_refused(done, f"{source} holds no rows")
    assert sorted(path.name for path in Path().iterdir()) == ["a.csv", "a.jsonl", "folder"]


# -- strangers' names --------------------------------------------------------------------------


def test_markup_in_names_stays_text(curv: Curv) -> None:
    rows = [
        {**row, "run": f"../../{row['run']}", "run.model": EVIL, "model": EVIL, "message": EVIL}
        for row in small(optimizers=(EVIL, "sam"))
    ]
    write_rows("rows.jsonl", rows)
    for name, done in draw_all(curv, "rows.jsonl").items():
        assert done.exit_code == 0, done.output
        text = Path(name).read_text(encoding="utf-8")
        if name != "e.csv":
            assert "<script" not in text
            assert "<svg onload" not in text
    page = Reader(Path("d.html").read_text(encoding="utf-8"))
    assert EVIL in page.text
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]


@pytest.mark.parametrize("metric", ["../../etc/passwd", "/etc/passwd", "..", "a\x1b[31m\nb", EVIL])
def test_a_metric_names_no_other_folder(metric: str, curv: Curv, tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    rows = [{**row, "metric": metric} for row in small() if row["metric"] == "trace"]
    write_rows("rows.jsonl", rows)
    done = curv("heatmap", "rows.jsonl", "--metric", metric, "--on", "test")
    assert done.exit_code == 0, done.output
    (written,) = tmp_path.glob("*.png")
    assert done.stdout == f"{written.name}\n"
    assert all(line.isprintable() for line in done.output.splitlines())
    assert_refused(curv("compare", "rows.jsonl"), "No row is of the metric `accuracy`")


@pytest.mark.parametrize("part", ["../../elsewhere", "/elsewhere", "test/../../elsewhere"])
def test_a_part_of_the_data_names_no_folder(part: str, curv: Curv) -> None:
    done = curv("train", "--epochs", 1, "--evaluate-on", part, "--out", "runs", "--quiet")
    assert_refused(done, "There is no data set")
    assert list(Path().iterdir()) == []


# -- what a hand or another program did to a file --------------------------------------------


def edited(change: Callable[[list[list[str]]], None]) -> str:
    write_csv("whole.csv", small())
    cells = list(csv.reader(io.StringIO(Path("whole.csv").read_text())))
    change(cells)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(cells)
    return text.getvalue()


COLUMNS = list(dict.fromkeys(name for row in small() for name in row))
NEEDED = {"metric", "value", "run.optimizer", "run.lr", "run.weight_decay"}


@pytest.mark.parametrize("column", COLUMNS)
def test_a_column_that_is_missing(column: str, curv: Curv) -> None:
    def drop(cells: list[list[str]]) -> None:
        place = cells[0].index(column)
        for line in cells:
            del line[place]

    Path("a.csv").write_text(edited(drop))
    for name in ("compare", *(["heatmap"] if column in NEEDED else [])):
        done = curv(name, "a.csv")
        if column in NEEDED and name == "compare":
            assert_refused(done, f"The table has no column {column}")
        elif done.exit_code:
            assert_refused(done)


@pytest.mark.parametrize("value", ["", "abc", "1e400", EVIL])
@pytest.mark.parametrize("column", ["value", "run.lr", "step"])
def test_text_where_numbers_are(column: str, value: str, curv: Curv) -> None:
    def put(cells: list[list[str]]) -> None:
        for line in cells[1::3]:
            line[cells[0].index(column)] = value

    Path("a.csv").write_text(edited(put))
    for name in ("compare", "table"):
        done = curv(name, "a.csv")
        if value in ("abc", "1e400", EVIL):
            assert_refused(done, f"a.csv, line 2: `{column}` is `{value}"[:60])
        elif done.exit_code:
            assert_refused(done)


@pytest.mark.parametrize("value", ['"abc"', "1" + 400 * "0", "NaN", "[1]", "{}"])
def test_text_where_numbers_are_in_json(value: str, curv: Curv) -> None:
    write_rows("a.jsonl", small())
    lines = Path("a.jsonl").read_text().splitlines()
    assert '"value": ' in lines[1]
    number = json.dumps(json.loads(lines[1])["value"])
    lines[1] = lines[1].replace(f'"value": {number}', f'"value": {value}')
    Path("a.jsonl").write_text("\n".join(lines))
    for done in draw_all(curv, "a.jsonl").values():
        assert_refused(done, "a.jsonl, line 2: ")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\n\n\n").encode() + b"\n\n",
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: text.replace(",", ";").encode(),
    ],
    ids=["BOM and CRLF", "blank lines", "CR", "semicolons"],
)
def test_a_table_that_a_spreadsheet_saved(change: Callable[[str], bytes], curv: Curv) -> None:
    text = edited(lambda cells: None)
    Path("a.csv").write_bytes(change(text))
    for source in ("whole", "a"):
        assert curv("table", f"{source}.csv", "--out", f"{source}.jsonl").exit_code == 0
    assert Path("a.jsonl").read_text() == Path("whole.jsonl").read_text()


@pytest.mark.parametrize("data", [b"\xff\xfe", b"\xe9\n", b"\x80\x02}q\x00.", b"\0\0"])
def test_bytes_that_are_no_text(data: bytes, curv: Curv) -> None:
    run = Path("runs") / "0123456789ab"
    write_rows(run / "rows" / "a.jsonl", small())
    assert curv("report", "runs").exit_code == 0
    write_csv("whole.csv", small())
    Path("a.csv").write_bytes(Path("whole.csv").read_bytes() + data)
    Path("a.jsonl").write_bytes((run / "rows" / "a.jsonl").read_bytes() + data)
    for source in ("a.csv", "a.jsonl"):
        for name in ("table", "heatmap", "compare", "report"):
            assert_refused(curv(name, source), source)
    (run / "history.jsonl").write_bytes(data)
    assert_refused(curv("report", "runs"), "history.jsonl")
    (run / "history.jsonl").write_text("{}\n")
    for config in (data, b'{"config": [1]}'):
        (run / "config.json").write_bytes(config)
        assert_refused(curv("report", "runs"), "config.json")
