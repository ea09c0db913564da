"""How the command ends where it isn't let finish."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from click.testing import Result
from curvature_cli import show

Curv = Callable[..., Result]


def fails_with(error: BaseException) -> Callable[..., NoReturn]:
    def fail(*args: object, **keywords: object) -> NoReturn:
        raise error

    return fail


def test_an_interruption_is_one_line_and_its_own_code(
    curv: Curv, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(show, "load_checkpoint", fails_with(KeyboardInterrupt()))
    result = curv("show", checkpoint)
    assert (result.exit_code, result.stderr) == (130, "curv: interrupted.\n")


def test_a_reader_that_has_enough_is_no_error_to_tell(
    curv: Curv, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError(errno.EPIPE, "Broken pipe")
    monkeypatch.setattr(show, "load_checkpoint", fails_with(error))
    result = curv("show", checkpoint)
    assert (result.exit_code, result.output) == (1, "")


def test_the_help_says_how_to_see_where_an_error_came_from(curv: Curv) -> None:
    assert "CURV_TRACEBACK=1" in curv("--help").stdout


FACTORIES = """
import torch

SETTINGS = {}


def model(classes):
    return torch.nn.Linear(SETTINGS["inputs"], classes)


def data(split):
    assert split == "nowhere", "no such part"
"""


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--model", "fails_inside:model"), "The model `fails_inside:model` failed with KeyError"),
        (("--data", "fails_inside:data"), "failed with AssertionError: no such part"),
        (("--loss", "fails_on_import:loss"), "can't be imported: ZeroDivisionError: division by"),
    ],
)
def test_what_someones_own_code_raises_is_one_line_that_names_it(
    options: tuple[str, str],
    says: str,
    curv: Curv,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "fails_inside.py").write_text(FACTORIES)
    (tmp_path / "fails_on_import.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    result = curv("train", *options, "--out", tmp_path / "runs")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
    assert says in result.stderr
    monkeypatch.setenv("CURV_TRACEBACK", "1")
    traced = curv("train", *options, "--out", tmp_path / "runs")
    assert isinstance(traced.exception, ValueError)
    assert isinstance(traced.exception.__cause__, KeyError | AssertionError | ZeroDivisionError)
