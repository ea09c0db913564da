"""The heatmap: colours, marks and counts are those of the table."""

import math

import pytest

from curvature import statistics
from curvature.plots import FIGURES, caption_of
from curvature.plots.cells import scale_of
from curvature.plots.style import OPTIMIZERS
from tests.plots.drawn import SMALL, artists, summary
from tests.statistics.tables import Row, grid


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return grid(**SMALL)


def test_a_cell_has_the_colour_of_its_value(rows: list[Row]) -> None:
    table = summary(rows, "trace")
    figure = FIGURES["heatmap"](table)
    scale = scale_of(table)
    rates, decays = list(SMALL["rates"]), list(SMALL["decays"])
    for axes, name in zip(figure.axes, SMALL["optimizers"], strict=False):
        assert axes.get_title() == OPTIMIZERS[name][0]
        for row in (row for row in table if row["run.optimizer"] == name):
            x, y = rates.index(row["run.lr"]), decays.index(row["run.weight_decay"])
            box, *_ = [a for a in axes.patches if a.get_label() == f"_cell {x} {y}"]
            if row["value"] is not None:
                assert box.get_facecolor() == pytest.approx(scale.colour(row["value"]))


def test_values_over_decades_are_coloured_by_their_logarithm() -> None:
    def table(*values: float) -> list[Row]:
        return [{"metric": "trace", "value": value, "status": "ok"} for value in values]

    wide = scale_of(table(1.0, 1e6, 1e12))
    assert wide.logarithmic
    assert wide.norm(1e6) == pytest.approx(0.5)
    assert not scale_of(table(1.0, 50.0)).logarithmic
    signed = scale_of(table(-1e12, 1.0, 1e6))
    assert signed.signed
    assert signed.colour(-1e6) == signed.colour(1e6)
    assert wide.colour(0.0) == wide.colour(1.0)


def test_what_is_marked_is_what_is_counted(rows: list[Row]) -> None:
    table = summary(rows, "trace")
    table[0] |= {"unconverged": 2, "converged": False, "value": -3.0}
    table[1] |= {"value": None, "status": "failed"}
    table[2] |= {"value": math.nan, "status": "ok"}
    del table[-1]
    figure = FIGURES["heatmap"](table)
    caption = caption_of(figure)
    good = [r for r in table if r["value"] is not None and math.isfinite(r["value"])]
    hollow = sum(r["unconverged"] > 0 for r in good)
    partly = sum(r["diverged"] > 0 for r in good)
    negative = sum(r["value"] < 0 for r in good)
    gone = len(table) - len(good) - 1
    assert len(artists(figure, "unconverged")) == hollow > 0
    assert negative > 0
    assert len(artists(figure, "partly")) == partly
    assert (len(artists(figure, "diverged")), len(artists(figure, "failed"))) == (gone, 1)
    assert f"{len(good)} of 18 cells have a value" in caption
    assert f"{gone} diverged (×, grey)" in caption
    assert "1 failed" in caption
    assert f"{hollow} with unconverged estimates" in caption
    assert f"{negative} negative (hatched)" in caption
    assert "1 not run (blank)" in caption
    assert not any("nan" in text.get_text() for text in artists(figure, "number"))


def test_two_values_in_one_cell_are_refused(rows: list[Row]) -> None:
    with pytest.raises(ValueError, match=r"two rows are of sgd.*summarize over the seeds"):
        FIGURES["heatmap"](statistics.select(rows, "trace"))


def test_many_rates_and_decays_fit_and_have_their_labels() -> None:
    rates = tuple(10 ** (-4 + k / 3) for k in range(12))
    decays = (0.0, *(10 ** (-6 + k / 2) for k in range(9)))
    rows = grid(optimizers=("sgd", "sam"), rates=rates, decays=decays, seeds=1)
    figure = FIGURES["heatmap"](summary(rows, "trace"))
    figure.draw_without_rendering()
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert len(labels) == len(set(labels)) == 12
    assert figure.axes[0].get_yticklabels()[0].get_text() == "0"
    assert "2.15e-4" in labels
