"""A small study's summaries, and what of them a figure shows."""

from typing import Any

from matplotlib.figure import Figure

from curvature import statistics
from tests.statistics.tables import RATES, Row

SMALL = {"rates": RATES[2:], "decays": (0.0, 1e-3), "optimizers": ("sgd", "sam", "sa-sam")}


def summary(rows: list[Row], metric: str) -> list[Row]:
    return statistics.summarize(statistics.select(rows, metric))


def artists(figure: Figure, kind: str) -> list[Any]:
    return [artist for artist in figure.findobj() if artist.get_label() == f"_{kind}"]
