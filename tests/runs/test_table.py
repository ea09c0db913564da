"""Rows and tables: whole files, null for what is no number, one row per key."""

import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curvature.runs import table
from curvature.runs.table import (
    Table,
    columns,
    read_csv,
    read_rows,
    read_table,
    write_csv,
    write_parquet,
    write_rows,
)

nan, inf = float("nan"), float("inf")


def row(**changes: Any) -> dict[str, Any]:
    return {"run": "a1", "analysis": "b2", "metric": "trace", "step": 10, "value": 2.5} | changes


def test_rows_come_back(tmp_path: Path) -> None:
    rows = [
        row(converged=True, status="ok", message="ligne à part\u2028 \n"),
        row(metric="eigmax", value=0.1 + 0.2, n=np.int64(3), residual=np.float32(0.5), block=None),
    ]
    write_rows(tmp_path / "new" / "a.jsonl", rows)
    assert read_rows(tmp_path / "new" / "a.jsonl") == rows
    assert len((tmp_path / "new" / "a.jsonl").read_bytes().splitlines()) == 2


@pytest.mark.parametrize("value", [nan, inf, -inf, np.float64("nan")])
def test_a_number_that_is_none_is_null_and_diverged(value: float, tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [row(value=value, status="ok", standard_error=value)])
    text = (tmp_path / "a.jsonl").read_text()
    json.loads(text, parse_constant=lambda token: pytest.fail(token))
    (found,) = read_rows(tmp_path / "a.jsonl")
    assert found["value"] is None
    assert found["standard_error"] is None
    assert (found["status"], found["message"]) == ("diverged", f"the value is {float(value)}")


def test_what_was_said_of_a_failure_stays(tmp_path: Path) -> None:
    said = row(value=nan, status="failed", message="out of memory")
    write_rows(tmp_path / "a.jsonl", [said, row(step=11, residual=inf, status="ok")])
    failed, fine = read_rows(tmp_path / "a.jsonl")
    assert (failed["status"], failed["message"]) == ("failed", "out of memory")
    assert (fine["status"], fine["residual"], fine["value"]) == ("ok", None, 2.5)


@pytest.mark.parametrize("value", [[1], {"a": 1}, object(), 1j])
def test_a_row_is_flat(value: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="numbers and text; `torch` is a"):
        write_rows(tmp_path / "a.jsonl", [row(torch=value)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"value": NaN}', "line 2: not a row (NaN is not JSON; write null)"),
        ('{"value": -Infinity}', "-Infinity is not JSON"),
        ('{"value": 1', "line 2: not a row (Expecting"),
        ("[1]", "line 2: not a row, which is an object"),
        ("3", "line 2: not a row, which is an object"),
        ('{"versions": {"torch": "2"}}', "line 2: a row is flat, but `versions`"),
        ("[" * 100_000, "line 2: not a row"),
    ],
)
def test_a_line_that_is_no_row_is_named(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row()) + "\n" + line + "\n\n")
    with pytest.raises(ValueError) as caught:
        read_rows(tmp_path / "a.jsonl")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\x80\x02\xff")
    with pytest.raises(ValueError, match="not text in UTF-8"):
        read_rows(tmp_path / "a.jsonl")
    with pytest.raises(FileNotFoundError, match="no file of rows at"):
        read_rows(tmp_path / "b.jsonl")


def test_the_table_is_all_rows_in_the_order_of_names(tmp_path: Path) -> None:
    write_rows(tmp_path / "r2" / "rows" / "x.jsonl", [row(run="r2")])
    write_rows(tmp_path / "r1" / "rows" / "y.jsonl", [row(run="r1", analysis="y")])
    write_rows(tmp_path / "r1" / "rows" / "x.jsonl", [row(run="r1", step=2), row(run="r1", step=1)])
    write_rows(tmp_path / "r1" / "rows" / "empty.jsonl", [])
    write_rows(tmp_path / "r1" / table.HISTORY, [row(run="r1", step=1), row(run="r1", step=2)])
    (tmp_path / "r1" / "rows" / ".1-ab.tmp").write_text("{half")
    found = [(r["run"], r["analysis"], r["step"]) for r in read_table(tmp_path)]
    assert found == [("r1", "b2", 2), ("r1", "b2", 1), ("r1", "y", 10), ("r2", "b2", 10)]


def test_a_key_in_two_files_names_both(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [row()])
    write_rows(tmp_path / "b.jsonl", [row(block=None, value=3.0)])
    with pytest.raises(ValueError, match=r"a\.jsonl and in .*b\.jsonl \(run a1, .*step 10\)"):
        read_table(tmp_path)


def test_a_key_twice_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Two rows have one key"):
        write_rows(tmp_path / "a.jsonl", [row(), row(value=3.0)])
    write_rows(tmp_path / "a.jsonl", [row(**{name: 1}) for name in table.KEY[3:]])


def test_no_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder of runs at"):
        read_table(tmp_path / "runs")
    assert read_table(tmp_path) == []


cell = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.fixed_dictionaries({"value": cell, "run.lr": cell, "run": st.text(min_size=1)})))
def test_a_csv_brings_its_rows_back(rows: list[dict[str, Any]]) -> None:
    rows = [r for r in rows if r["run"].strip() and r["run"].isprintable()]
    with tempfile.TemporaryDirectory() as folder:
        write_csv(Path(folder) / "a.csv", rows)
        if rows:
            assert read_csv(Path(folder) / "a.csv") == rows


def test_a_csv_says_what_diverged(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [row(value=nan, status="ok")])
    (found,) = read_csv(tmp_path / "a.csv")
    assert (found["value"], found["status"]) == (None, "diverged")


def test_a_csv_of_ids_that_look_like_numbers(tmp_path: Path) -> None:
    rows = [row(run="123456789012", analysis="12e456789012", torch="2.13", message='a,"b"\r\nc')]
    write_csv(tmp_path / "a.csv", rows)
    assert read_csv(tmp_path / "a.csv") == rows
    assert (tmp_path / "a.csv").read_text().startswith("run,analysis,metric,step,value,message")


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("\ufeffrun;value\r\na;1.5\r\n", [{"run": "a", "value": 1.5}]),
        ("run\tvalue\na\t\n\n\t\n", [{"run": "a", "value": None}]),
        (" run , value\na, 2 \n", [{"run": "a", "value": 2}]),
        ("top,converged\n3,TRUE", [{"top": 3, "converged": True}]),
        ("size,group\n007,1_000", [{"size": 7, "group": "1_000"}]),
        ("run,value\n", []),
    ],
)
def test_a_csv_saved_by_a_spreadsheet(
    text: str, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_bytes(text.encode())
    assert read_csv(tmp_path / "a.csv") == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run,value\na,1\nb,abc\n", "line 3: `value` is `abc`, not a number"),
        ("run;value\na;1,5\n", "line 2: `value` is `1,5`, not a number"),
        ("run,value\na,nan\n", "line 2: `value` is `nan`, not a number; leave it empty"),
        ("run,value\na,1e999\n", "`value` is `1e999`"),
        ("run,value\na\n", "line 2: 1 cells, where the header has 2"),
        ("run,value\na,1,2\n", "line 2: 3 cells"),
        ("run,,value\na,1,2\n", "but column 2 has none"),
        ("run,value,run\n", "the column `run` stands twice"),
        ("\n", "column 1 has none"),
        ("", "is empty"),
    ],
)
def test_what_a_hand_broke_in_a_csv_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError) as caught:
        read_csv(tmp_path / "a.csv")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_csv_of_other_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("run,value\né,1".encode("latin-1"))
    with pytest.raises(ValueError, match="save it as CSV UTF-8"):
        read_csv(tmp_path / "a.csv")


def test_columns_stand_in_the_order_of_the_contract() -> None:
    assert columns([row(zeta=1), row(**{"run.lr": 0.1, "standard_error": 0.1})]) == [
        *("run", "analysis", "metric", "step", "value", "standard_error", "run.lr", "zeta")
    ]


def test_parquet_brings_the_rows_back(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    rows = [
        row(seed=2**62 + 1, converged=True, **{"run.optimizer_options": "growth=1"}),
        row(step=None, value=math.nan, seed=None, converged=None, message=None),
        row(step=12, value=3, seed=0, converged=False, **{"run.optimizer_options": 5}),
    ]
    write_parquet(tmp_path / "a.parquet", rows)
    found = pandas.read_parquet(tmp_path / "a.parquet")
    assert list(found.columns) == columns([*rows, {"status": None}])
    assert found["step"].tolist() == [10, pandas.NA, 12]
    assert found["seed"].tolist() == [2**62 + 1, pandas.NA, 0]  # no detour by a float
    assert found["converged"].tolist() == [True, pandas.NA, False]
    assert found["value"].dtype == "float64"
    assert found["status"].isna().tolist() == [True, False, True]
    assert found["status"][1] == "diverged"
    assert found["run.optimizer_options"].dropna().tolist() == ["growth=1", "5"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_a_table_becomes_a_data_frame(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    write_rows(tmp_path / "runs" / "a.jsonl", [row(), row(step=11, value=math.inf)])
    table = read_table(tmp_path / "runs")
    frame = table.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == columns(table)
    assert frame["step"].tolist() == [10, 11]
    assert frame["value"].isna().tolist() == [False, True]
    assert frame.groupby("status")["step"].max()["diverged"] == 11


def test_a_data_frame_needs_pandas_and_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    needed = r"pip install 'curvature-toolkit\[parquet\]'"
    with pytest.raises(ModuleNotFoundError, match=needed):
        write_parquet(tmp_path / "a.parquet", [row()])
    with pytest.raises(ModuleNotFoundError, match=needed):
        Table([row()]).to_pandas()
    assert not list(tmp_path.iterdir())


def test_parquet_needs_pyarrow_and_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pandas")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'curvature-toolkit\[parquet\]'"):
        write_parquet(tmp_path / "a.parquet", [row()])
