"""A disk that is full, or a folder that can't be written: one line, and what was whole stays so."""

import errno
import itertools
import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from curvature.runs.checkpoint import load_checkpoint, save_checkpoint
from curvature.runs.table import read_rows, read_table, write_rows
from tests.statistics.tables import grid
from tests.sweep.conftest import Inline, timeless

Curv = Callable[..., Result]
TRAIN = ("train", "--model", "mlp:hidden=8,depth=1", "--epochs", 2, "--batch-size", 500, "--quiet")
SWEEP = (
    *("sweep", "--model", "mlp:hidden=8,depth=1", "--steps", 3, "--batch-size", 500),
    *("--examples", 20, "--max-passes", 8, "--max-products", 4, "--lr", "0.1", "--quiet"),
    *("--products", "plain"),
)


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("curvature.sweep.LocalExecutor", lambda *args, **kwargs: Inline())


class Disk:
    """Full when the file of this number is to be made safe; and ever after, if so asked."""

    def __init__(self, number: int | None = None, *, stays: bool = False) -> None:
        self.number, self.stays = number, stays
        self.count = itertools.count(1)
        self.files = 0

    def __call__(self, file: int) -> None:
        self.files = next(self.count)
        if self.number is None or self.files < self.number:
            return
        if self.files == self.number or self.stays:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch, curv: Curv) -> Callable[..., Result]:
    def run(disk: Disk, *args: Any) -> Result:
        with monkeypatch.context() as patch:
            patch.setattr("curvature.runs.files.os.fsync", disk)
            return curv(*args)

    return run


def assert_refused(done: Result, why: str = os.strerror(errno.ENOSPC)) -> None:
    assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.output
    assert f"can't be written ({why})" in done.stderr


def assert_whole(root: Path) -> None:
    """Every file can be read."""
    readers: dict[str, Callable[[Path], Any]] = {
        ".pt": load_checkpoint,
        ".jsonl": read_rows,
        ".json": lambda path: json.loads(path.read_text()),
    }
    for path in root.rglob("*"):
        if path.is_file() and path.name != ".lock":
            readers[path.suffix](path)


def result_of(run: Path) -> tuple[Any, ...]:
    rows = timeless([*read_rows(run / "history.jsonl"), *read_table(run)])
    return load_checkpoint(run / "checkpoint.pt").hash, rows


def test_a_training_goes_on_once_there_is_room(on_disk: Any, curv: Curv) -> None:
    disk = Disk()
    assert on_disk(disk, *TRAIN, "--out", "whole").exit_code == 0
    (whole,) = Path("whole").iterdir()
    assert disk.files > 8
    for number in range(1, disk.files + 1):
        root = Path(str(number))
        assert_refused(on_disk(Disk(number, stays=number % 2 == 0), *TRAIN, "--out", root))
        assert_whole(root)
        assert curv(*TRAIN, "--out", root).exit_code == 0
        assert result_of(root / whole.name) == result_of(whole)


def test_a_sweep_ends_and_blames_no_run(on_disk: Any, curv: Curv) -> None:
    disk = Disk()
    assert on_disk(disk, *SWEEP, "--out", "whole").exit_code == 0
    expected = timeless(read_table("whole"))
    assert {row["status"] for row in expected} == {"ok"}
    for number in range(1, disk.files + 1):
        root = Path(str(number))
        full = Disk(number, stays=number % 2 == 0)
        assert_refused(on_disk(full, *SWEEP, "--out", root))
        assert_whole(root)
        assert "failed" not in {row["status"] for row in read_table(root)}
        assert curv(*SWEEP, "--out", root).exit_code == 0
        assert timeless(read_table(root)) == expected


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_ends_in_its_midst_leaves_the_old_one(curv: Curv, checkpoint: Path) -> None:
    """The system itself cuts them short."""
    write_rows("rows.jsonl", grid(optimizers=("sgd", "sam"), rates=(0.1, 0.5), decays=(0.0,)))
    few = ("--examples", 20, "--max-passes", 8)
    other = load_checkpoint(checkpoint)
    save_checkpoint(
        "other.pt", replace(other, weights={k: 2 * v for k, v in other.weights.items()})
    )
    commands: dict[str, tuple[Any, ...]] = {
        "a.jsonl": ("analyze", checkpoint, *few, "--quiet", "--out"),
        "a.csv": ("analyze", checkpoint, *few, "--quiet", "--out"),
        "a.safetensors": ("show", checkpoint, "--quiet", "--json", "--export"),
        "b.csv": ("table", "rows.jsonl", "--out"),
        "a.png": ("heatmap", "rows.jsonl", "--quiet", "--out"),
        "a.pdf": ("compare", "rows.jsonl", "--quiet", "--json", "--out"),
        "c.svg": ("compare", checkpoint, "other.pt", *few, "--quiet", "--json", "--out"),
        "c.jsonl": ("compare", checkpoint, "other.pt", *few, "--quiet", "--json", "--table"),
        "a.html": ("report", "rows.jsonl", "--out"),
    }
    for name, command in commands.items():
        assert curv(*command, name).exit_code == 0, name
        before = Path(name).read_bytes()
        with no_file_longer_than(len(before) // 2):
            done = curv(*command, name)
        assert done.exit_code == 2, done.output
        assert done.stderr == f"curv: {name}: can't be written ({os.strerror(errno.EFBIG)}).\n"
        assert Path(name).read_bytes() == before
    assert list(Path().glob(".*")) == []


def test_a_checkpoint_that_does_not_fit_leaves_the_run_to_go_on(curv: Curv) -> None:
    assert curv(*TRAIN, "--out", "whole").exit_code == 0
    (whole,) = Path("whole").iterdir()
    for size in (100, 700, 2000, 4000):
        with no_file_longer_than(size):
            assert_refused(curv(*TRAIN, "--out", "cut"), os.strerror(errno.EFBIG))
        assert_whole(Path("cut"))
    assert curv(*TRAIN, "--out", "cut").exit_code == 0
    assert result_of(Path("cut") / whole.name) == result_of(whole)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """For root too, who may write everywhere: as somebody else meanwhile."""
    user = os.geteuid()
    folder.chmod(0o555)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


def test_a_folder_that_can_only_be_read(curv: Curv, checkpoint: Path, tmp_path: Path) -> None:
    Path("a.pt").write_bytes(checkpoint.read_bytes())
    write_rows("rows.jsonl", grid(optimizers=("sgd",), rates=(0.1,), decays=(0.0,)))
    commands: list[tuple[Any, ...]] = [
        (*TRAIN, "--out", "runs"),
        (*TRAIN, "--out", "."),
        (*SWEEP, "--out", "runs"),
        ("analyze", "a.pt", "--examples", 20, "--max-passes", 8, "--quiet", "--out", "b.jsonl"),
        ("show", "a.pt", "--quiet", "--json", "--export", "b.safetensors"),
        ("table", "rows.jsonl", "--out", "rows.csv"),
    ]
    for command in commands:
        assert curv(*command[:-1], "elsewhere/" + command[-1]).exit_code == 0  # all is imported
        before = sorted(tmp_path.iterdir())
        with read_only(tmp_path):
            done = curv(*command)
        assert done.exit_code == 2, done.output
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert os.strerror(errno.EACCES) in done.stderr
        assert sorted(tmp_path.iterdir()) == before
