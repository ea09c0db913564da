"""`curv sweep` as people type it; the workers are this process, for speed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from curvature.runs.table import read_table
from tests.sweep.conftest import Inline

Curv = Callable[..., Result]
TINY = (
    *("--model", "mlp:hidden=8,depth=1", "--steps", 4, "--batch-size", 500),
    *("--examples", 20, "--max-passes", 8),
)


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    def executor(*args: Any, **kwargs: Any) -> Inline:
        return Inline()

    monkeypatch.setattr("curvature.sweep.LocalExecutor", executor)
    monkeypatch.setattr("curvature.sweep.estimation.LocalExecutor", executor)


def test_lists_and_repeats_make_the_same_grid(curv: Curv, tmp_path: Path) -> None:
    lists = curv("sweep", *TINY, "--optimizers", "sgd,sam", "--lr", "0.1,1", "--dry-run", "--json")
    repeats = curv(
        *("sweep", *TINY, "--optimizer", "sgd", "--optimizer", "sam"),
        *("--lr", "0.1", "--lr", "1", "--dry-run", "--json"),
    )
    runs = json.loads(lists.stdout)["runs"]
    assert len(runs) == 4
    assert runs == json.loads(repeats.stdout)["runs"]


def test_rows_of_a_sweep_are_measured_on_all_that_is_asked_for(curv: Curv, tmp_path: Path) -> None:
    on = ("--analyze-on", "test", "--analyze-on", "train", "--analyze-on", "digits:test=0.5")
    result = curv("sweep", *TINY, *on, "--seeds", 2, "--out", tmp_path, "--json", "--quiet")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert [run["seed"] for run in answer["runs"]] == [0, 1]
    assert {run["status"] for run in answer["runs"]} == {"done"}
    table = read_table(tmp_path)
    assert {row["on"] for row in table} == {"val", "test", "train", "digits:test=0.5"}
    assert {row["on"] for row in table if row["metric"] == "trace"} == {
        "test",
        "train",
        "digits:test=0.5",
    }


def test_a_dry_run_shows_the_grid_and_its_cost_and_writes_nothing(
    curv: Curv, tmp_path: Path
) -> None:
    out = tmp_path / "sweep"
    grid = ("--optimizers", "sgd,adam", "--lr", "0.1,1", "--lr", "adam=1e-3", "--seeds", 2)
    result = curv("sweep", *TINY, *grid, "--out", out, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "sgd: lr 0.1 1; weight_decay 0; seed 0 1" in result.stdout
    assert "adam: lr 0.001; weight_decay 0; seed 0 1" in result.stdout
    assert "6 runs, 6 left" in result.stdout
    assert "Assumed: 4 steps of 610 parameters" in result.stdout
    assert not out.exists()


def test_a_failed_run_makes_the_exit_code_1(curv: Curv, tmp_path: Path) -> None:
    optimizers = "sgd,tests.sweep.troublemakers:Raises"
    result = curv("sweep", *TINY, "--optimizers", optimizers, "--out", tmp_path)
    assert result.exit_code == 1
    assert "1 done, 1 failed" in result.stdout
    assert "OddError: a step in the test" in result.stderr
    assert "--retry-failed" in result.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--optimizers", "sgdd"), "sgd"),
        (("--lr", "fast"), "`fast`"),
        (("--lr", "adam=0.1"), "`adam`"),
        (("--data", "cifar10:/no/such/place"), "/no/such/place"),
        (("--analyze-on", "cifar10c:/no/such/place"), "/no/such/place"),
        (("--analyze-on", "tset"), "tset"),
        (("--examples", 10**6), "1,000,000"),
        (("--seeds", 0), "--seeds"),
        (("--jobs", 0), "--jobs"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(
    curv: Curv, tmp_path: Path, args: tuple[Any, ...], words: str
) -> None:
    out = tmp_path / "sweep"
    result = curv("sweep", *TINY, *args, "--out", out)
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert words in result.stderr
    assert not out.exists()


def numbers(count: int) -> str:
    return ",".join(f"{0.001 * (i + 1):.4g}" for i in range(count))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--lr", numbers(1000), "--weight-decay", numbers(1000)), "The grid has 1,000,000 runs"),
        (("--seeds", 10**9), "The grid has 1,000,000,000 runs"),
        (("--lr", "-1"), "`lr` must be above 0"),
        (("--lr", "0.1,nan"), "`lr` must be finite"),
        (("--lr", "inf"), "`lr` must be finite"),
        (("--lr", "0"), "`lr` must be above 0"),
        (("--lr", "1e999"), "`lr` must be finite"),
        (("--weight-decay", "-0.1"), "`weight_decay` must be at least 0"),
        (("--optimizers", "sam", "--rho", "-1"), "`rho` must be"),
        (("--seed", -1), "`seed` must be at least 0"),
        (("--lr", ""), "none"),
        (("--optimizers", ""), "empty"),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_an_absurd_grid_is_refused_at_once(
    options: tuple[Any, ...], says: str, dry: tuple[str, ...], curv: Curv, tmp_path: Path
) -> None:
    result = curv("sweep", *options, *dry, "--out", tmp_path / "sweep")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
    assert says in result.stderr
    assert list(tmp_path.iterdir()) == []
