"""Accuracy against flatness, a point for each setting, with the rank correlation."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from curvature.plots import style
from curvature.plots.scales import set_value_scale
from curvature.plots.text import FONT

COLUMNS = ("run.optimizer", "x", "y", "x_metric", "y_metric", "metric", "value")

Rows = Sequence[Mapping[str, Any]]


def relation(
    rows: Iterable[Mapping[str, Any]], *, width: float = style.SINGLE, caption: bool = True
) -> Any:
    """Draw the points of `statistics.pair`, and its rank correlations in caption and legend."""
    rows = list(rows)
    style.require(rows, COLUMNS, "relation figure")
    points = [row for row in rows if row.get("x") is not None and row.get("y") is not None]
    if not points:
        raise ValueError("The relation figure has nothing to draw: no setting has both metrics.")
    found = {row["run.optimizer"]: row for row in rows if row.get("metric") == "rank_correlation"}
    optimizers = style.levels(points, "run.optimizer")
    figure = style.new_figure(width, 2.9, _caption(points, found), drawn=caption)
    axes = figure.subplots()
    x_factor = style.factor(points[0]["x_metric"])
    y_factor = style.factor(points[0]["y_metric"])
    for optimizer in optimizers:
        label, colour, marker = style.look(optimizer, optimizers)
        mine = [row for row in points if row["run.optimizer"] == optimizer]
        rho = found.get(optimizer, {}).get("value")
        label += f" ({rho:+.2f})" if rho is not None else ""
        for row in mine:
            x, y = row["x"] * x_factor, row["y"] * y_factor
            style.draw_point(axes, x, y, colour, marker, hollow=row.get("converged") is False)
        axes.plot(
            [], [], color=colour, marker=marker, markersize=3.4, linestyle="none", label=label
        )
    set_value_scale(axes.xaxis, [row["x"] * x_factor for row in points])
    set_value_scale(axes.yaxis, [row["y"] * y_factor for row in points])
    style.plain_axes(axes)
    axes.set_xlabel(style.metric_label(points, points[0]["x_metric"]), fontsize=FONT + 0.5)
    axes.set_ylabel(style.metric_label(points, points[0]["y_metric"]), fontsize=FONT + 0.5)
    style.legend_above(figure, axes, width)
    return figure


def _caption(points: Rows, found: Mapping[Any, Mapping[str, Any]]) -> str:
    parts = [f"{len(points)} settings, each the mean over its seeds"]
    overall = found.get(None)
    if overall is not None and overall.get("value") is not None:
        text = f"rank correlation over all {overall['n']}: {overall['value']:+.2f}"
        if overall.get("low") is not None:
            text += f", 95 % interval {overall['low']:+.2f} to {overall['high']:+.2f}"
        parts.append(text + "; within an optimizer, in the legend")
    hollow = sum(row.get("converged") is False for row in points)
    if hollow:
        parts.append(f"{hollow} with unconverged estimates (hollow)")
    return "; ".join(parts) + "."
