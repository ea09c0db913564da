"""Tiny grids, and two ways to run them: in this process, and in two that the tests share."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

import pytest

from curvature.runs.config import AnalysisConfig, RunConfig
from curvature.runs.table import Row
from curvature.sweep import LocalExecutor

BASE = RunConfig(model="mlp:hidden=8,depth=1,activation=tanh", steps=4, batch_size=500)
FEW = AnalysisConfig(examples=20, max_passes=8, max_products=4, products="plain")


class Inline(Executor):
    """Runs what is submitted at once, here; counts it."""

    def __init__(self) -> None:
        self.submitted = 0

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        self.submitted += 1
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except ValueError as error:
            future.set_exception(error)
        return future


@pytest.fixture
def inline() -> Inline:
    return Inline()


@pytest.fixture(scope="module")
def processes() -> Iterator[LocalExecutor]:
    with LocalExecutor(2, timeout=60) as executor:
        yield executor


def timeless(rows: list[Row]) -> list[Row]:
    """Without what a table may differ in."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
