"""Each figure from a table: what is shown is what was given, and nothing else."""

import io
import math
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise

import pytest
from matplotlib.figure import Figure
from PIL import Image

from curvature import statistics
from curvature.plots import FIGURES, caption_of, figure_bytes
from curvature.plots import comparison as comparison_figure
from curvature.plots import networks as networks_figure
from curvature.plots.style import OPTIMIZERS, look
from curvature.plots.text import FONT
from curvature.statistics.bounds import bounds
from tests.plots.drawn import SMALL, artists, summary
from tests.statistics.tables import Row, grid


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return grid(**SMALL)


def best_table(rows: list[Row]) -> list[Row]:
    chosen = statistics.at_best(rows, statistics.best_settings(rows))
    table: list[Row] = []
    for metric in ("accuracy", "trace", "eigmax"):
        seeds = statistics.select(chosen, metric)
        table += seeds + statistics.summarize(seeds, by=("run.optimizer",))
    return table


def history() -> list[Row]:
    return [
        {
            "run": f"{name}-{seed}",
            "run.optimizer": name,
            "epoch": epoch,
            "train_loss": 2.0 / epoch + seed,
            "val_accuracy": 1 - 1 / epoch if epoch < 4 or name == "sgd" else None,
            "eta": 0.1 * epoch,
            "rho": math.sqrt(0.1 * epoch) if name == "sa-sam" else None,
            "status": "diverged" if name == "sa-sam" and epoch == 4 else "ok",
        }
        for name in ("sgd", "sa-sam")
        for seed in (0, 1)
        for epoch in (1, 2, 3, 4)
    ]


def some_networks(count: int = 4) -> list[Row]:
    """The second diverged, the third is unconverged; the last was not measured in everything."""
    found = []
    for i in range(count):
        for metric, value in (("accuracy", 0.9), ("trace", 40.0), ("eigmax", 5.0 * 10**i)):
            gone = i == 1
            row = {
                **{"name": f"net-{i}.pt", "metric": metric, "on": "test", "examples": 360},
                **{"value": None if gone else value, "status": "diverged" if gone else "ok"},
                **{"converged": not (i == 2 and metric == "trace"), "dtype": "float32"},
                **{"standard_error": 0.4 if metric == "trace" else None, "method": "split"},
                **{"residual": 1e-3 if metric == "eigmax" else None, "data_name": "digits"},
                **{"sampling_error": {"accuracy": 0.016, "trace": 2.0}.get(metric)},
            }
            found.append({**row, **vars(bounds(row))})
    return found[:-1]


TABLES: dict[str, Callable[[list[Row]], list[Row]]] = {
    "heatmap": lambda rows: summary(rows, "trace"),
    "comparison": best_table,
    "networks": lambda rows: some_networks(),
    "sensitivity": lambda rows: summary(rows, "accuracy"),
    "relation": lambda rows: statistics.pair(rows, "eigmax"),
    "training_curves": lambda rows: history(),
}


def heights(figure: Figure, kind: str) -> list[float]:
    found = [float(y) for line in artists(figure, kind) for y in line.get_ydata()]
    return sorted(y for y in found if math.isfinite(y))


def test_every_figure_has_a_table_here() -> None:
    assert set(TABLES) == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("width", [3.3, 6.9])
def test_a_figure_is_as_wide_as_asked_and_nothing_is_smaller_than_seven_points(
    name: str, width: float, rows: list[Row]
) -> None:
    figure = FIGURES[name](TABLES[name](rows), width=width)
    figure.draw_without_rendering()
    assert figure.get_size_inches()[0] <= width + 1e-9
    texts = [t for t in figure.findobj(match=lambda a: hasattr(a, "get_fontsize")) if t.get_text()]
    assert min(text.get_fontsize() for text in texts if text.get_visible()) >= FONT
    box = figure.get_tightbbox()
    assert box.x0 >= -0.02
    assert box.y0 >= -0.02
    assert box.x1 <= figure.get_size_inches()[0] + 0.02
    assert box.y1 <= figure.get_size_inches()[1] + 0.02


@pytest.mark.parametrize("name", FIGURES)
def test_a_table_without_rows_or_columns_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match="the table is empty"):
        FIGURES[name]([])
    with pytest.raises(ValueError, match=r"needs the column|table is empty"):
        FIGURES[name]([{"metric": "accuracy", "colour": 3}])


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_the_same_table_gives_the_same_bytes(kind: str, rows: list[Row]) -> None:
    table = summary(rows, "trace")
    first, second = (figure_bytes(FIGURES["heatmap"](table), kind) for _ in range(2))
    assert first == second
    assert first.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind])


def test_a_file_has_a_white_ground_and_a_page_none(rows: list[Row]) -> None:
    figure = FIGURES["heatmap"](summary(rows, "trace"))
    with Image.open(io.BytesIO(figure_bytes(figure, "png"))) as image:
        assert image.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)
        assert image.width <= round(6.9 * 300)
    with Image.open(io.BytesIO(figure_bytes(figure, "png", transparent=True))) as image:
        assert image.convert("RGBA").getpixel((0, 0))[3] == 0


def test_another_format_is_refused(rows: list[Row]) -> None:
    with pytest.raises(ValueError, match="png, svg, pdf, not `gif`"):
        figure_bytes(FIGURES["heatmap"](summary(rows, "trace")), "gif")


def test_the_comparison_shows_every_seed_mean_and_interval(rows: list[Row]) -> None:
    table = best_table(rows)
    figure = FIGURES["comparison"](table)
    for kind, column, of_seeds in (("point", "value", True), ("mean", "value", False)):
        given = [
            row[column] * (100 if row["metric"] == "accuracy" else 1)
            for row in table
            if (row.get("run") is not None) == of_seeds and row[column] is not None
        ]
        repeats = 1 if of_seeds else 2  # a mean is a short line
        assert heights(figure, kind) == pytest.approx(sorted(given * repeats))
    ends = [
        row[end] * (100 if row["metric"] == "accuracy" else 1)
        for row in table
        if row.get("run") is None
        for end in ("low", "high")
    ]
    assert heights(figure, "interval") == pytest.approx(sorted(ends))


def test_unconverged_seeds_are_hollow(rows: list[Row]) -> None:
    table = best_table(rows)
    figure = FIGURES["comparison"](table)
    hollow = [a for a in artists(figure, "point") if a.get_markerfacecolor() == "none"]
    unconverged = [r for r in table if r.get("run") and r["converged"] is False and r["value"]]
    assert len(hollow) == len(unconverged)


def test_a_single_seed_has_no_interval() -> None:
    figure = comparison_figure(best_table(grid(**SMALL, seeds=1)))
    assert artists(figure, "interval") == []
    assert "of one seed have no interval" in caption_of(figure)


def test_lines_of_sensitivity_break_where_all_seeds_diverged() -> None:
    table = summary(grid(optimizers=("sgd",), decays=(0.0,)), "accuracy")
    table[2] |= {"value": None, "low": None, "high": None, "status": "diverged"}
    figure = FIGURES["sensitivity"](table)
    (line,) = artists(figure, "line")
    assert math.isnan(line.get_ydata()[2])
    points = [100 * row["value"] for row in table if row["value"] is not None]
    assert heights(figure, "point") == pytest.approx(sorted(points))
    assert "1 of 5 points diverged" in caption_of(figure)


def test_the_relation_shows_all_settings_and_the_correlation(rows: list[Row]) -> None:
    table = statistics.pair(rows, "eigmax")
    figure = FIGURES["relation"](table)
    points = [row for row in table if "x" in row]
    assert heights(figure, "point") == pytest.approx(sorted(100 * row["y"] for row in points))
    overall = next(r for r in table if "x" not in r and r["run.optimizer"] is None)
    assert f"over all {len(points)}: {overall['value']:+.2f}" in caption_of(figure)


def test_training_curves_mark_a_divergence() -> None:
    figure = FIGURES["training_curves"](history())
    assert len(artists(figure, "diverged")) == 2 * 4  # two runs, in four panels
    assert "4 runs; 2 diverged" in caption_of(figure)


def tracked() -> list[Row]:
    """Two runs in rows as trackers write them; the second one's λ_max ran out of its budget."""
    values = {"eigmax": 4.0, "trace": 40.0, "stability_threshold": 20.0}
    return [
        {
            "run": run,
            "analysis": "tracking",
            "metric": metric,
            "step": step,
            "epoch": step / 5,
            "value": value + step,
            "converged": run == "a" or metric != "eigmax",
            "run.optimizer": {"a": "sgd", "b": "msgd"}[run],
        }
        for run in ("a", "b")
        for step in (5, 10)
        for metric, value in values.items()
    ]


def test_training_curves_show_tracked_curvature_beside_the_threshold() -> None:
    rows = statistics.along_training(tracked())
    figure = FIGURES["training_curves"]([*history(), *rows], panels=("eigmax", "trace"))
    assert heights(figure, "threshold") == [25.0, 25.0, 30.0, 30.0]
    assert heights(figure, "curve") == [9.0, 9.0, 14.0, 14.0, 45.0, 45.0, 50.0, 50.0]
    assert heights(figure, "point") == [9.0, 14.0]  # hollow: run b's
    caption = caption_of(figure)
    assert "2 unconverged values (hollow)" in caption
    assert "from which full-batch steps diverge" in caption


def test_a_loop_of_ones_own_has_steps_for_epochs() -> None:
    rows = statistics.along_training([{**row, "epoch": None} for row in tracked()])
    figure = FIGURES["training_curves"](rows, panels=("eigmax",))
    assert figure.axes[0].get_xlabel() == "step"
    assert heights(figure, "curve") == [9.0, 9.0, 14.0, 14.0]
    with pytest.raises(ValueError, match="need one of the columns epoch, step"):
        FIGURES["training_curves"]([{"run": "a", "eigmax": 1.0}])


def test_an_optimizer_has_one_colour_in_every_figure() -> None:
    assert len({colour for _, colour, _ in OPTIMIZERS.values()}) == 6
    assert look("sam", ["sam"]) == look("sam", ["adam", "sam", "own"])
    assert look("own", ["own", "sam"])[1] not in {c for _, c, _ in OPTIMIZERS.values()}


@pytest.mark.parametrize("name", ["heatmap", "comparison", "sensitivity", "relation"])
def test_strangers_names_are_drawn_as_text(name: str) -> None:
    hostile = ("$\\frac{1}{0}$ <b>&", "名前" * 40, "a\n\x07" + "b" * 200)
    rows = grid(optimizers=hostile, rates=(1e-30, 1e30), decays=(0.0, 1 / 7), seeds=2)
    svg = figure_bytes(FIGURES[name](TABLES[name](rows)), "svg").decode()
    assert "&lt;b>" in svg or "&lt;b&gt;" in svg
    assert "b" * 60 not in svg


@pytest.mark.parametrize("name", ["heatmap", "comparison", "sensitivity"])
def test_a_table_in_which_all_diverged_is_drawn_as_that(name: str) -> None:
    rows = [{**r, "value": None, "status": "diverged"} for r in grid(**SMALL)]
    table = summary(rows, "trace")
    figure = FIGURES[name](table)
    figure.draw_without_rendering()
    assert "diverged" in caption_of(figure)


def test_drawing_opens_no_window_and_loads_no_pyplot() -> None:
    code = (
        "import sys; sys.path.insert(0, '.');"
        "from curvature.plots import FIGURES, figure_bytes;"
        "assert 'matplotlib' not in sys.modules;"
        "row = {'run.optimizer': 'sgd', 'run.lr': 1, 'run.weight_decay': 0, 'metric': 'loss',"
        " 'value': 1.0, 'status': 'ok'};"
        "figure_bytes(FIGURES['heatmap']([row]), 'png');"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_a_diverged_network_is_named_and_not_drawn() -> None:
    figure = networks_figure(some_networks())
    assert len(artists(figure, "point")) == 8  # of 12: three diverged, one not measured
    absent = [text.get_text() for text in artists(figure, "absent")]
    assert absent == ["diverged", "diverged", "diverged", "not measured"]
    assert "1 diverged and is not drawn" in caption_of(figure)
    assert "nothing is said of the optimizers" in caption_of(figure)


def test_an_unconverged_network_is_hollow() -> None:
    figure = networks_figure(some_networks(), metrics=("trace",))
    faces = [point.get_markerfacecolor() for point in artists(figure, "point")]
    assert faces[1] == "white"
    assert "white" not in (faces[0], faces[2])
    assert "1 of 3 values are unconverged (hollow)" in caption_of(figure)


def test_both_intervals_of_a_network_are_drawn() -> None:
    figure = networks_figure(some_networks(2)[:3], metrics=("trace",))
    thin, thick = (line.get_xdata() for line in artists(figure, "interval"))
    assert thin[0] < thick[0] < 40 < thick[1] < thin[1]
    assert thin[1] == pytest.approx(40 + 1.96 * 2, abs=0.01)


def test_thirty_networks_stay_apart() -> None:
    names = [f"experiments/of/last/summer/seed-{i}/with-a-long-name.pt" for i in range(30)]
    rows = [
        {"name": name, "metric": "trace", "value": 1.0 + i, "status": "ok", "on": "test"}
        for i, name in enumerate(names)
    ]
    figure = networks_figure(rows)
    figure.draw_without_rendering()
    labels = figure.axes[0].get_yticklabels()
    assert len({label.get_text() for label in labels}) == 30
    boxes = [label.get_window_extent() for label in labels]
    tops = sorted(boxes, key=lambda box: box.y0)
    assert all(below.y1 <= above.y0 for below, above in pairwise(tops))


def test_an_interval_of_an_accuracy_ends_at_nothing_and_at_all() -> None:
    rows = best_table(grid(**SMALL))
    wide = [
        {**row, "low": -0.5, "high": 1.2} if row.get("low") is not None else row for row in rows
    ]
    drawn = artists(comparison_figure(wide, metrics=("accuracy",)), "interval")
    assert drawn
    assert {(min(line.get_ydata()), max(line.get_ydata())) for line in drawn} == {(0, 100)}


def test_an_interval_of_an_accuracy_over_rates_ends_there_too() -> None:
    means = summary(grid(**SMALL), "accuracy")
    wide = [{**row, "low": -0.5, "high": 1.2} for row in means]
    drawn = artists(FIGURES["sensitivity"](wide), "interval")
    assert drawn
    assert {(min(line.get_ydata()), max(line.get_ydata())) for line in drawn} == {(0, 100)}
