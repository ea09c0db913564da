"""A metric against the learning rate: all optimizers, or one panel each with all weight decays."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from curvature.plots import style
from curvature.plots.scales import set_value_scale
from curvature.plots.text import FONT, settings, width_of

COLUMNS = ("run.optimizer", "run.lr", "run.weight_decay", "metric", "value", "status")

Rows = Sequence[Mapping[str, Any]]


def sensitivity(
    rows: Iterable[Mapping[str, Any]],
    *,
    width: float | None = None,
    caption: bool = True,
    note: str = "",
) -> Any:
    """Draw summary rows of one metric; a rate whose runs diverged breaks the line.

    Where a table has one row for each optimizer and rate, the optimizers share the axes;
    otherwise each has its panel, with a line for each weight decay, the smaller the lighter.
    """
    rows = list(rows)
    style.require(rows, COLUMNS, "sensitivity figure")
    optimizers = style.levels(rows, "run.optimizer")
    rates = style.levels(rows, "run.lr")
    shared = len({(row.get("run.optimizer"), row.get("run.lr")) for row in rows}) == len(rows)
    width = width or (style.SINGLE if shared else style.DOUBLE)
    down, across = style.panels(1 if shared else len(optimizers), width)
    text = f"{_caption(rows, shared)} {note}".strip()
    figure = style.new_figure(width, 2.6 if shared else 1.6 * down + 0.3, text, drawn=caption)
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    for i, optimizer in enumerate(optimizers):
        axes = grid.flat[0 if shared else i]
        mine = [row for row in rows if row.get("run.optimizer") == optimizer]
        label, colour, marker = style.look(optimizer, optimizers)
        shift = 0.3 * ((i + 0.5) / len(optimizers) - 0.5) if shared else 0.0
        decays = style.levels(mine, "run.weight_decay")
        lines = (
            [mine] if shared else [[r for r in mine if r["run.weight_decay"] == d] for d in decays]
        )
        for k, line in enumerate(lines):
            _draw_line(axes, line, rates, (colour, marker, (k + 1) / len(lines)), shift)
        if shared:
            axes.plot([], [], color=colour, marker=marker, markersize=3.3, linewidth=1, label=label)
        else:
            axes.set_title(label, fontsize=FONT + 0.5, pad=3)
    for axes in grid.flat[1 if shared else len(optimizers) :]:
        axes.set_visible(False)
    for i, axes in enumerate(grid.flat[: 1 if shared else len(optimizers)]):
        _set_axes(axes, rows, rates, width / across, i + across >= len(optimizers) or shared)
        axes.set_ylabel(style.metric_label(rows) if i % across == 0 else "")
    if shared:
        style.legend_above(figure, grid.flat[0], width)
    return figure


def _by_decay(rows: Rows) -> list[Rows]:
    decays = style.levels(rows, "run.weight_decay")
    return [[row for row in rows if row.get("run.weight_decay") == decay] for decay in decays]


def _draw_line(
    axes: Any,
    rows: Rows,
    rates: Sequence[Any],
    looks: tuple[str, str, float],
    shift: float,
) -> None:
    colour, marker, strength = looks
    factor = style.factor(rows[0]["metric"])
    by_rate = {row.get("run.lr"): row for row in rows if row.get("value") is not None}
    alpha = 0.25 + 0.75 * strength
    x = [i + shift for i in range(len(rates))]
    y = [by_rate[rate]["value"] * factor if rate in by_rate else math.nan for rate in rates]
    axes.plot(x, y, color=colour, linewidth=1, alpha=alpha, label="_line")
    for i, rate in enumerate(rates):
        row = by_rate.get(rate)
        if row is None:
            continue
        hollow = bool(row.get("unconverged")) or row.get("converged") is False
        style.draw_point(axes, x[i], y[i], colour, marker, hollow=hollow, alpha=alpha)
        if row.get("low") is not None and row.get("high") is not None:
            ends = style.interval(row)
            axes.plot([x[i]] * 2, ends, color=colour, linewidth=0.7, alpha=alpha, label="_interval")


def _set_axes(axes: Any, rows: Rows, rates: Sequence[Any], room: float, lowest: bool) -> None:
    factor = style.factor(rows[0]["metric"])
    drawn = [row["value"] * factor for row in rows if row.get("value") is not None]
    set_value_scale(axes.yaxis, drawn)
    if not drawn:
        style.say_nothing_is_left(axes)
    labels = settings(rates)
    axes.set_xlim(-0.4, len(rates) - 0.6)
    axes.set_xticks(range(len(rates)), labels)
    style.plain_axes(axes)
    if max(width_of(label) for label in labels) > 0.85 * (room - 0.55) / len(rates):
        axes.tick_params(axis="x", rotation=90)
    axes.tick_params(labelbottom=lowest)
    axes.set_xlabel("learning rate" if lowest else "")


def _caption(rows: Rows, shared: bool) -> str:
    parts = []
    if not shared:
        decays = ", ".join(settings(style.levels(rows, "run.weight_decay")))
        parts.append(f"A line for each weight decay ({decays}), the smaller the lighter")
    gone = sum(row.get("value") is None for row in rows)
    if gone:
        parts.append(f"{gone} of {len(rows)} points diverged or failed, and break the line")
    hollow = sum(row.get("converged") is False and row.get("value") is not None for row in rows)
    if hollow:
        parts.append(f"{hollow} have unconverged estimates (hollow)")
    return "; ".join(parts) + "." if parts else ""
