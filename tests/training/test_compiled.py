"""Compiled steps: the plain run but for rounding, saved and gone on with as any other."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from curvature.analysis import analyze
from curvature.runs.checkpoint import load_checkpoint
from curvature.runs.config import AnalysisConfig, RunConfig
from curvature.training import train
from curvature.training.compiled import _require_compiler
from tests.training.test_resume import NOISY, after, assert_same_state

NOISE = "tests.training.networks:noise"
PLAIN = RunConfig(model=NOISY, data=NOISE, optimizer="sam", lr=0.01, steps=4, batch_size=200)

needs_a_compiler = pytest.mark.skipif(
    not (shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")),
    reason="torch.compile needs a C++ compiler, and there is none",
)


@pytest.mark.parametrize(
    "backend",
    ["aot_eager", pytest.param("inductor", marks=[pytest.mark.soak, needs_a_compiler])],
)
def test_a_compiled_run_is_the_plain_one_but_for_rounding(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout's masks and BatchNorm's statistics included; and it goes on bit by bit.

    The backend without a C++ compiler makes graphs as the other does, in a second.
    """
    made: list[nn.Module] = []
    _require_compiler.cache_clear()
    if backend != "inductor":
        made = without_a_compiler(backend, monkeypatch)
    asked, said = replace(PLAIN, compile=True), list[str]()
    whole = train(asked, tmp_path / "whole")
    train(asked, tmp_path / "parts", stop=after(3))
    parts = train(asked, tmp_path / "parts", announce=said.append)
    compiled, plain = load_checkpoint(whole.checkpoint), train(PLAIN, tmp_path / "plain")
    assert_same_state(load_checkpoint(parts.checkpoint), compiled)
    assert not any("unlike before" in line for line in said)
    assert whole.folder.path.name == plain.folder.path.name
    reference = load_checkpoint(plain.checkpoint)
    assert compiled.weights.keys() == reference.weights.keys()
    for name, weight in reference.weights.items():
        torch.testing.assert_close(compiled.weights[name], weight)
    assert compiled.hash != reference.hash or len(made) == 3  # or nothing was compiled
    measured = analyze(compiled, AnalysisConfig(eigmax=True), trust=True)
    assert measured[-1]["converged"]


def without_a_compiler(backend: str, monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Let ``torch.compile`` use another backend; the modules that it was given, by and by."""
    given: list[nn.Module] = []
    compile_by = torch.compile

    def compile_(what: Any, *, dynamic: bool, options: Any = None) -> Any:
        if isinstance(what, nn.Module):
            given.append(what)
        return compile_by(what, dynamic=dynamic, backend=backend)

    monkeypatch.setattr(torch, "compile", compile_)
    return given


def test_going_on_the_other_way_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("curvature.training.task.compiled", lambda model, device: model)
    said: list[str] = []
    train(replace(PLAIN, compile=True), tmp_path, stop=after(3))
    train(PLAIN, tmp_path, announce=said.append)
    assert "It goes on without `compile`, unlike before: not bit by bit the same." in said


def test_where_nothing_compiles_one_line_says_so_before_anything_is_written(
    tmp_path: Path, monkeypatch: Any
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise RuntimeError(
            "InvalidCxxCompiler: No working C++ compiler found in (None, 'g++')\n\nX"
        )

    _require_compiler.cache_clear()
    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(
        ValueError, match=r"No working C\+\+ compiler found .*--no-compile"
    ) as found:
        train(replace(PLAIN, compile=True), tmp_path)
    assert "\n" not in str(found.value)
    assert not list(tmp_path.iterdir())
