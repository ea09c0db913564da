"""Every run once, whatever was there before and whatever goes wrong with others."""

from dataclasses import replace
from pathlib import Path

import pytest

from curvature.runs.config import AnalysisConfig, RunConfig
from curvature.runs.folder import RunFolder
from curvature.runs.table import read_table
from curvature.sweep import SweepProgress, estimate, grid, sweep
from tests.sweep.conftest import BASE, FEW, Inline, timeless

RAISES = "tests.sweep.troublemakers:Raises"


def test_the_table_has_every_run_on_every_data(tmp_path: Path, inline: Inline) -> None:
    configs = grid(BASE, optimizers=["sgd", "sa-sam"], lr={None: [0.01, 0.1]})
    analyses = [FEW, replace(FEW, split="train"), replace(FEW, data="digits:test=0.5")]
    parts = ["val", "test", "digits:test=0.5"]
    result = sweep(configs, tmp_path, analyses=analyses, evaluate_on=parts, executor=inline)
    assert set(result.statuses.values()) == {"done"}
    table = result.rows()
    for config in configs:
        found = {(row["metric"], row["on"]) for row in table if row["run"] == config.id}
        for on in ("test", "train", "digits:test=0.5"):
            assert {("trace", on), ("eigmax", on), ("accuracy", on)} <= found
        assert ("accuracy", "val") in found
    assert {row["status"] for row in table} == {"ok"}


def test_what_is_done_is_not_done_again(tmp_path: Path, inline: Inline) -> None:
    configs = grid(BASE, optimizers=["sgd"], seeds=2)
    first = sweep(configs, tmp_path, analyses=[FEW], executor=inline)
    before = inline.submitted
    again = sweep(configs, tmp_path, analyses=[FEW], executor=inline)
    assert inline.submitted == before
    assert again == first


def test_another_analysis_trains_nothing(tmp_path: Path, inline: Inline) -> None:
    (config,) = configs = grid(BASE, optimizers=["sgd"])
    sweep(configs, tmp_path, analyses=[FEW], executor=inline)
    checkpoint = RunFolder(tmp_path / config.id).checkpoint
    written = checkpoint.stat().st_mtime_ns
    before = inline.submitted
    other = replace(FEW, split="val")
    sweep(configs, tmp_path, analyses=[FEW, other], executor=inline)
    assert inline.submitted == before + 2  # the check, and the one analysis
    assert checkpoint.stat().st_mtime_ns == written
    assert RunFolder(tmp_path / config.id).rows(other.id).exists()


def test_a_trained_run_is_evaluated_on_what_is_asked_for_later(
    tmp_path: Path, inline: Inline
) -> None:
    configs = grid(BASE, optimizers=["sgd"])
    sweep(configs, tmp_path, executor=inline, evaluate_on=["test"])
    apart = sweep(configs, tmp_path, executor=inline, evaluate_on=["test", "val"]).rows()
    at_once = sweep(configs, tmp_path / "other", executor=inline, evaluate_on=["test", "val"])
    assert timeless(apart) == timeless(at_once.rows())


def test_a_part_that_the_data_lack_is_left_out(tmp_path: Path, inline: Inline) -> None:
    configs = grid(replace(BASE, data="digits:validation=0"), optimizers=["sgd"])
    for _ in range(2):
        result = sweep(configs, tmp_path, executor=inline)
        assert {row["on"] for row in result.rows()} == {"test"}


def test_a_divergence_is_recorded_and_the_rest_goes_on(tmp_path: Path, inline: Inline) -> None:
    configs = grid(BASE, optimizers=["sgd"], lr={None: [1e38, 0.1]})
    result = sweep(configs, tmp_path, analyses=[FEW], executor=inline)
    assert [result.statuses[c.id] for c in configs] == ["diverged", "done"]
    rows = {(r["run"], r["metric"], r["analysis"]): r for r in result.rows() if not r["block"]}
    trace = rows[configs[0].id, "trace", FEW.id]
    assert (trace["status"], trace["value"], trace["run.lr"]) == ("diverged", None, 1e38)
    assert "lr" in trace["message"]
    assert rows[configs[1].id, "trace", FEW.id]["status"] == "ok"


def test_a_failure_is_recorded_and_the_rest_goes_on(tmp_path: Path, inline: Inline) -> None:
    configs = grid(BASE, optimizers=[RAISES, "sgd"])
    told: list[str] = []
    result = sweep(configs, tmp_path, analyses=[FEW], executor=inline, announce=told.append)
    failed, fine = (c.id for c in configs)
    assert result.statuses == {failed: "failed", fine: "done"}
    assert result.messages == {failed: "OddError: a step in the test"}
    assert any("OddError: a step in the test" in line for line in told)
    of_failed = [row for row in read_table(tmp_path) if row["run"] == failed]
    assert {row["status"] for row in of_failed} == {"failed"}
    assert {row["metric"] for row in of_failed} >= {"trace", "eigmax", "loss", "accuracy"}
    assert "troublemakers.py" in (tmp_path / failed / "error.txt").read_text()


def test_a_failure_is_tried_again_only_when_asked(tmp_path: Path, inline: Inline) -> None:
    marker = tmp_path / "marker"
    base = replace(BASE, optimizer_options=(f"marker={marker}",))
    (config,) = configs = grid(base, optimizers=[RAISES])
    root = tmp_path / "sweep"
    sweep(configs, root, analyses=[FEW], executor=inline)
    marker.touch()
    still = sweep(configs, root, analyses=[FEW], executor=inline)
    assert still.statuses == {config.id: "failed"}
    now = sweep(configs, root, analyses=[FEW], executor=inline, retry_failed=True)
    assert now.statuses == {config.id: "done"}
    assert {row["status"] for row in now.rows()} == {"ok"}


def test_an_analysis_that_fails_is_recorded(tmp_path: Path, inline: Inline) -> None:
    (config,) = configs = grid(BASE, optimizers=["sgd"])
    sweep(configs, tmp_path, executor=inline)
    checkpoint = RunFolder(tmp_path / config.id).checkpoint
    checkpoint.write_bytes(b"damaged")
    result = sweep(configs, tmp_path, analyses=[FEW], executor=inline)
    assert result.statuses == {config.id: "failed"}
    rows = {row["metric"]: row for row in result.rows() if row["analysis"] == FEW.id}
    assert rows["trace"]["status"] == "failed"
    assert "checkpoint.pt" in rows["trace"]["message"]


@pytest.mark.parametrize(
    ("base", "analysis", "words"),
    [
        (replace(BASE, data="cifar10:/no/such/place"), FEW, "/no/such/place"),
        (replace(BASE, model="mlpp"), FEW, "mlp"),
        (replace(BASE, schedule="cosine"), FEW, "sa-sgd"),
        (BASE, AnalysisConfig(examples=10**6), "1,000,000"),
        (BASE, AnalysisConfig(data="cifar10c:/no/such/place"), "/no/such/place"),
        (BASE, AnalysisConfig(params=("nothing.*",)), "nothing"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    tmp_path: Path, inline: Inline, base: RunConfig, analysis: AnalysisConfig, words: str
) -> None:
    configs = grid(base, optimizers=["sgd", "sa-sgd"])
    with pytest.raises(ValueError, match=words):
        sweep(configs, tmp_path, analyses=[analysis], executor=inline)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_to_the_end(tmp_path: Path, inline: Inline) -> None:
    told: list[SweepProgress] = []
    configs = grid(BASE, optimizers=["sgd"], lr={None: [1e38, 0.1]})
    sweep(configs, tmp_path, analyses=[FEW], executor=inline, report=told.append)
    done = [(p.works_done, p.finished) for p in told]
    assert done == sorted(done)
    last = told[-1]
    assert (last.runs, last.finished, last.diverged, last.failed) == (2, 2, 1, 0)
    assert last.works == last.works_done == 4
    assert last.seconds_left == 0


def test_an_estimate_trains_nothing(tmp_path: Path, inline: Inline) -> None:
    configs = grid(BASE, optimizers=["sgd", "sa-sam"], seeds=2)
    sweep(configs[:1], tmp_path, analyses=[FEW], executor=inline)
    there = sorted(tmp_path.rglob("*"))
    found = estimate(configs, tmp_path, analyses=[FEW], executor=inline)
    assert sorted(tmp_path.rglob("*")) == there
    assert (found.runs, found.runs_left) == (4, 3)
    assert (found.trainings, found.analyses) == (3, 3)
    assert found.costs is not None
    assert 0 < found.training_seconds < 60
    assert 0 < found.analysis_seconds < 60
