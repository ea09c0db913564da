"""`curvature.compare` from Python: the numbers of `analyze`, and rows taken as they are."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import curvature
from curvature import AnalysisConfig, Checkpoint, RunConfig, analyze, models, save_checkpoint
from curvature.comparison.measuring import hits_of
from curvature.runs.folder import RunFolder
from curvature.runs.table import write_rows

SPEC = "mlp:hidden=8,depth=1"
FEW = AnalysisConfig(examples=60, dtype="float64", trace_method="exact")


def network(seed: int, scale: float = 1.0) -> Checkpoint:
    model = models.build(
        SPEC, input_shape=(1, 8, 8), classes=10, generator=torch.Generator().manual_seed(seed)
    )
    weights = {name: w * scale for name, w in model.state_dict().items()}
    return Checkpoint(weights, config=RunConfig(model=SPEC, seed=seed))


def test_numbers_are_those_of_analyze_and_the_difference_is_exact() -> None:
    networks = {"small": network(0, 0.5), "large": network(0, 3.0)}
    found = curvature.compare(networks, FEW)
    assert found.names == ("small", "large")
    alone = {
        (name, row["metric"]): row["value"]
        for name, checkpoint in networks.items()
        for row in analyze(checkpoint, FEW)
    }
    assert {(row["name"], row["metric"]): row["value"] for row in found.rows} == alone
    trace = next(d for d in found.differences if d.metric == "trace")
    assert trace.value == pytest.approx(alone["large", "trace"] / alone["small", "trace"])
    assert f"large is {trace.word} than small in trace" in str(found)
    assert found.figure(metrics=("trace",)).axes[0].get_yticklabels()[0].get_text() == "small"


def test_rows_that_are_there_are_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"checkpoint": f"{seed}.pt", **r} for seed in (0, 1) for r in analyze(network(seed), FEW)
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    monkeypatch.setattr("curvature.comparison.measuring.analyze", None)
    found = curvature.compare([tmp_path / "rows.jsonl"], FEW)
    assert found.names == ("0.pt", "1.pt")
    values = {(r["name"], r["metric"]): r["value"] for r in found.rows}
    assert values == {(r["checkpoint"], r["metric"]): r["value"] for r in rows}


def run_folder(root: Path, seed: int) -> RunFolder:
    checkpoint = network(seed)
    assert checkpoint.config is not None
    folder = RunFolder.create(root, checkpoint.config)
    save_checkpoint(folder.checkpoint, checkpoint)
    return folder


def test_a_run_folder_brings_its_rows_or_its_checkpoint(tmp_path: Path) -> None:
    measured, new = (run_folder(tmp_path, seed) for seed in (0, 1))
    rows = analyze(network(0), FEW)
    write_rows(measured.rows("a"), rows)
    told: list[str] = []
    found = curvature.compare([measured.path, new.path], FEW, announce=told.append)
    assert found.names == (measured.path.name, new.path.name)
    assert told
    assert all(line.startswith(new.path.name) for line in told)


def test_of_several_splits_the_one_that_is_asked_for_is_taken(tmp_path: Path) -> None:
    folders = [run_folder(tmp_path, seed) for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        for split in ("train", "test"):
            config = AnalysisConfig(**{**FEW.to_dict(), "split": split})
            write_rows(folder.rows(split), analyze(network(seed), config))
    paths = [folder.path for folder in folders]
    for split in ("train", "test"):
        found = curvature.compare(paths, AnalysisConfig(split=split))
        assert {row["split"] for row in found.rows} == {split}
    with pytest.raises(ValueError, match=r"no rows on val; it has test, train"):
        curvature.compare(paths, AnalysisConfig(split="val"))


def test_a_protocol_that_differs_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("curvature.comparison.measuring.analyze", None)
    rows = analyze(network(0), FEW)
    other = AnalysisConfig(**{**FEW.to_dict(), "examples": 50})
    with pytest.raises(ValueError, match="`examples` is 60 for old, but 50 for new"):
        curvature.compare({"old": rows, "new": network(1)}, other)


def test_weights_that_are_not_finite_are_told_and_leave_the_others() -> None:
    broken = network(2)
    next(iter(broken.weights.values())).view(-1)[0] = torch.nan
    found = curvature.compare({"broken": broken, "a": network(0), "b": network(1)}, FEW)
    status = {(row["name"], row["metric"]): row["status"] for row in found.rows}
    assert status["broken", "trace"] == "diverged"
    assert status["a", "trace"] == "ok"
    assert {d.against for d in found.differences} == {"a"}
    with pytest.raises(ValueError, match="None of the networks has a value"):
        curvature.compare({"x": broken, "y": broken_too()}, FEW)


def broken_too() -> Checkpoint:
    broken = network(3)
    next(iter(broken.weights.values())).view(-1)[1] = torch.inf
    return broken


def test_hits_are_those_of_the_accuracy() -> None:
    from curvature.analysis import load_subject

    risk = load_subject(network(0), AnalysisConfig(examples=100)).risk
    hits = hits_of(risk)
    assert hits is not None
    assert len(hits) == 100
    assert sum(hits) / 100 == pytest.approx(curvature.performance(risk).accuracy)


def test_a_regression_has_no_hits() -> None:
    inputs, targets = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.ones(20)
    model = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Flatten(0))
    assert hits_of(curvature.EmpiricalRisk(model, "mse", (inputs, targets))) is None


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([network(0)], "needs two networks, got 1"),
        ([network(0), network(0)], "was given twice"),
        ({"a": network(0), "b": network(0)}, "a and b hold the same weights"),
    ],
)
def test_what_is_no_comparison_is_refused(sources: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        curvature.compare(sources, FEW)  # type: ignore[arg-type]


def test_two_networks_of_one_run_stay_two_in_a_table(tmp_path: Path) -> None:
    one, other = network(0), network(1)
    other = replace(other, config=one.config)
    found = curvature.compare({"a": one, "b": other}, FEW)
    assert {row["run"] for row in found.rows} == {one.hash, other.hash}
    write_rows(tmp_path / "rows.jsonl", found.rows)
    assert curvature.compare([tmp_path / "rows.jsonl"]).names == ("a", "b")


def test_a_model_that_is_typed_is_that_of_strangers() -> None:
    spec = "mlp:hidden=4,depth=1"
    model = models.build(
        spec, input_shape=(1, 8, 8), classes=10, generator=torch.Generator().manual_seed(0)
    )
    config = replace(FEW, model=spec, data="digits")
    found = curvature.compare(
        {"ours": network(0), "theirs": Checkpoint(model.state_dict())}, config
    )
    sizes = {row["name"]: row["parameters"] for row in found.rows}
    assert sizes == {"ours": 610, "theirs": 310}
    assert {row["model"] for row in found.rows} == {SPEC, spec}


@pytest.mark.parametrize("method", ["hutchinson", "split"])
def test_one_network_in_two_guises_is_never_told_apart(method: str) -> None:
    """Hidden units in another order: other weights, the same function and the same curvature."""
    one = network(0, 2.0)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    first, bias, last, rest = list(one.weights)
    weights = {
        **{first: one.weights[first][order], bias: one.weights[bias][order]},
        **{last: one.weights[last][:, order], rest: one.weights[rest]},
    }
    assert one.config is not None
    other = Checkpoint(weights, config=replace(one.config, seed=1))
    for seed in range(5):
        config = AnalysisConfig(examples=60, trace_method=method, trace_rtol=0.1, seed=seed)
        found = curvature.compare({"one": one, "other": other}, config)
        assert {d.metric: d.word for d in found.differences} == dict.fromkeys(
            ("accuracy", "trace", "eigmax"), ""
        )
