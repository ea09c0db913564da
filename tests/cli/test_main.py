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
