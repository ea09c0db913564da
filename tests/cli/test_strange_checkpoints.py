"""Files that no checkpoint should be, through `curv analyze` and `curv show`: a line, no harm."""

import gzip
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from curvature_cli.main import main

from curvature import models
from curvature.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.runs.test_reading import CONTENTS, SAFETENSORS
from tests.runs.test_security import CALLS, RAW, in_format

Curv = Callable[..., Result]
MLP = "mlp:hidden=8,depth=1"
TYPED = ("--model", MLP, "--data", "digits", "--examples", 20, "--max-passes", 8)


def state() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    model = models.build(MLP, input_shape=(1, 8, 8), classes=10, generator=generator)
    return dict(model.state_dict())


def changed(change: Callable[[torch.Tensor], Any]) -> dict[str, Any]:
    return {name: change(value) for name, value in state().items()}


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def ours(folder: Path) -> bytes:
    save_checkpoint(folder / "whole", Checkpoint(state()))
    return (folder / "whole").read_bytes()


def flipped(folder: Path) -> bytes:
    data = bytearray(ours(folder))
    place = bytes(data).index(state()["output.weight"].numpy().tobytes())
    data[place + 5] ^= 1
    return bytes(data)


def too_new(folder: Path) -> bytes:
    ours(folder)
    content = torch.load(folder / "whole", weights_only=True)
    return saved(content | {"curvature_format": 2})


def spoilt(value: float) -> Callable[[Path], bytes]:
    def build(folder: Path) -> bytes:
        weights = state()
        weights["output.weight"][3, 2] = value
        return saved(weights)

    return build


# Of our own making, given a folder: the bytes and what the line says.
FILES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "ours, truncated": (lambda folder: ours(folder)[:-100], "truncated or damaged"),
    "ours, a bit flipped": (flipped, "the checksum of"),
    "ours, gzipped and truncated": (
        lambda folder: gzip.compress(ours(folder))[:-100],
        "damaged or truncated gzip",
    ),
    "ours, of a newer version": (too_new, "written in format 2 by a newer version"),
    "a list": (lambda folder: saved([1, 2]), "not a state dict"),
    "a tensor": (lambda folder: saved(torch.ones(3)), "holds a Tensor, not a state dict"),
    "nothing": (lambda folder: saved({}), "no tensors under a name"),
    "sparse": (lambda folder: saved(changed(lambda v: v.to_sparse())), "is sparse"),
    "no values": (lambda folder: saved(changed(lambda v: v.to("meta"))), "without values"),
    "deeper than is looked": (
        lambda folder: saved({"a": {"b": {"c": {"d": {"e": state()}}}}}),
        "no tensors under a name",
    ),
    "two sets": (lambda folder: saved({"a": state(), "b": state()}), "choose one of `a`, `b`"),
}

# Weights that are whole but don't fit or are no numbers: `show` shows them, `analyze` can't.
UNFIT: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "NaN": (spoilt(float("nan")), "NaN or infinite weights in `output.weight` (1 of 80)"),
    "Inf": (spoilt(float("-inf")), "NaN or infinite weights in `output.weight` (1 of 80)"),
    "scalars": (
        lambda folder: saved(changed(lambda v: v.sum())),
        "4 of another shape (hidden1.weight: (), not (8, 64)",
    ),
    "a scalar": (lambda folder: saved({"w": torch.tensor(1.0)}), "4 missing (hidden1.weight"),
    "transposed": (lambda folder: saved(changed(lambda v: v.t())), "2 of another shape"),
    "empty tensors": (lambda folder: saved(changed(lambda v: v[:0])), "4 of another shape"),
    "whole numbers": (lambda folder: saved(changed(lambda v: v.long())), "4 of another kind"),
    "complex": (lambda folder: saved(changed(lambda v: v + 0j)), "4 of another kind"),
    "long names": (
        lambda folder: saved({f"{'x' * 10_000}\n{name}": v for name, v in state().items()}),
        "4 missing",
    ),
}

# Weights that are as good as any.
FIT: dict[str, Callable[[Path], bytes]] = {
    "half": lambda folder: saved(changed(torch.Tensor.half)),
    "bfloat16": lambda folder: saved(changed(torch.Tensor.bfloat16)),
    "double": lambda folder: saved(changed(torch.Tensor.double)),
    "nested two deep": lambda folder: saved({"run": {"model": state()}, "epoch": 3}),
    "prefixed": lambda folder: saved({f"module.{k}": v for k, v in state().items()}),
    "gzipped": lambda folder: gzip.compress(ours(folder)),
}


@pytest.fixture
def refused(
    curv: Curv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Path], str]]:
    """Both commands, asked to write too, say one line about a file in folder `in`; nothing else."""
    monkeypatch.chdir(tmp_path)
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    canary = tmp_path / "canary"

    def run(path: Path, *, shown: bool = False) -> str:
        before = sorted(tmp_path.rglob("*"))
        done = [curv("analyze", path, *TYPED, "--out", tmp_path / "out" / "rows.jsonl")]
        if not shown:
            done.append(curv("show", path, "--export", tmp_path / "out" / "w.safetensors"))
        for each in done:
            lines = each.stderr.splitlines()
            assert (each.exit_code, each.stdout, len(lines)) == (2, "", 1), each.output
            assert lines[0].startswith("curv: ")
            assert lines[0].isprintable()
            assert len(lines[0]) < 600
        assert sorted(tmp_path.rglob("*")) == before
        return done[0].stderr + done[-1].stderr

    yield run
    assert not canary.exists()


def build(folder: Path, content: Callable[[Path], bytes]) -> bytes:
    data = content(folder)
    (folder / "whole").unlink(missing_ok=True)
    return data


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_checkpoint(case: str, refused: Any, tmp_path: Path) -> None:
    content, says = FILES[case]
    path = tmp_path / "in" / "a.pt"
    path.write_bytes(build(tmp_path, content))
    assert refused(path).count(says) == 2


@pytest.mark.parametrize("case", CONTENTS)
def test_anything_else(case: str, refused: Any, tmp_path: Path) -> None:
    path = tmp_path / "in" / "a.pt"
    path.write_bytes(CONTENTS[case][0])
    assert refused(path).count("a.pt") >= 2


@pytest.mark.parametrize("case", SAFETENSORS)
def test_a_broken_safetensors_file(case: str, refused: Any, tmp_path: Path) -> None:
    path = tmp_path / "in" / "a.safetensors"
    path.write_bytes(SAFETENSORS[case][0])
    assert refused(path).count("a.safetensors") >= 2


@pytest.mark.parametrize("case", [*CALLS, *RAW])
def test_a_malicious_pickle(case: str, refused: Any, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "in" / "a.pt"
    make, name = CALLS[case] if case in CALLS else RAW[case]
    made = make(canary)
    path.write_bytes(made if isinstance(made, bytes) else in_format(made, "zip"))
    assert refused(path).count(name) >= 2


def test_a_path_that_is_no_file(refused: Any, tmp_path: Path) -> None:
    inside = tmp_path / "in"
    os.symlink("loop.pt", inside / "loop.pt")
    os.symlink("nowhere.pt", inside / "dangling.pt")
    os.mkfifo(inside / "pipe.pt")
    for name, says in {
        "missing.pt": "There is no checkpoint at",
        "loop.pt": "symbolic link",
        "dangling.pt": "a link to nowhere.pt",
        "pipe.pt": "neither a file nor a link to one",
        "x" * 300: "can't be read",
        "": "is a directory",
    }.items():
        assert refused(inside / name).count(says) == 2


@pytest.mark.parametrize("case", UNFIT)
def test_weights_that_are_no_network(case: str, curv: Curv, refused: Any, tmp_path: Path) -> None:
    content, says = UNFIT[case]
    path = tmp_path / "in" / "a.pt"
    path.write_bytes(build(tmp_path, content))
    assert says in refused(path, shown=True)
    shown = curv("show", path)
    assert shown.exit_code == 0, shown.output
    assert "NaN" not in case or says in shown.stdout


@pytest.mark.parametrize("case", FIT)
def test_weights_that_are_as_good_as_any(case: str, curv: Curv, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(build(tmp_path, FIT[case]))
    assert curv("show", path).exit_code == 0
    out = tmp_path / "rows.jsonl"
    done = curv("analyze", path, *TYPED, "--out", out)
    assert done.exit_code == 0, done.output
    assert load_checkpoint(path).hash in out.read_text()


def test_names_that_a_terminal_would_obey(tmp_path: Path) -> None:
    weights = {f"\x1b[31m\n\x07{name}": value for name, value in state().items()}
    torch.save(weights, tmp_path / "a.pt")
    shown = CliRunner().invoke(main, ["show", str(tmp_path / "a.pt")], color=True)
    assert shown.exit_code == 0, shown.output
    assert "?[31m??output.weight   10×8  float32" in shown.stdout
    assert all(line.isprintable() for line in shown.output.splitlines())
