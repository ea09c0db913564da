"""A metric over learning rate × weight decay, a panel for each optimizer, on one shared scale."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curvature.plots import style
from curvature.plots.cells import CellKind, Scale, kind_of, numbers_fit, scale_of, value_text
from curvature.plots.text import FONT, LINE, sentence, settings, width_of

COLUMNS = ("run.optimizer", "run.lr", "run.weight_decay", "metric", "value", "status")

Rows = Sequence[Mapping[str, Any]]

_BESIDE = 1.15  # inches beside the cells: labels and the scale
_WIDEST = 0.75  # inches of a cell
_MARK = 9.0  # points², of the marks in a cell's corner


def heatmap(
    rows: Iterable[Mapping[str, Any]],
    *,
    width: float = style.DOUBLE,
    title: str | None = None,
    caption: bool = True,
) -> Any:
    """Draw a summary row per cell: what diverged is crossed, what is unconverged has a ring.

    Positive values that span more than two decades are coloured by their logarithm; where some
    are negative too, by the logarithm of their size, and those are hatched.
    """
    rows = list(rows)
    style.require(rows, COLUMNS, "heatmap")
    _refuse_two_in_a_cell(rows)
    optimizers = style.levels(rows, "run.optimizer")
    down, across = style.panels(len(optimizers), width)
    layout = _layout(rows, across, width)
    height = down * (max(len(layout.decays), 3) * layout.room[1] + 0.42)
    height += 0.5 if len(layout.rates) > 6 else 0.35
    caption_text = _caption(rows, layout.scale)
    figure = style.new_figure(layout.width, height, caption_text, drawn=caption)
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    for i, axes in enumerate(grid.flat):
        if i >= len(optimizers):
            axes.set_visible(False)
            continue
        _draw_panel(axes, [r for r in rows if r.get("run.optimizer") == optimizers[i]], layout)
        axes.set_title(style.look(optimizers[i], optimizers)[0], fontsize=FONT + 0.5, pad=3)
        lowest, leftmost = i + across >= len(optimizers), i % across == 0
        axes.tick_params(labelbottom=lowest, labelleft=leftmost)
        axes.set_xlabel("learning rate" if lowest else "")
        axes.set_ylabel("weight decay" if leftmost else "")
    _draw_colorbar(figure, grid, layout.scale, title or style.metric_label(rows))
    return figure


@dataclass(frozen=True)
class _Layout:
    """What the panels share; ``room`` is a cell's width and height in inches."""

    rates: list[Any]
    decays: list[Any]
    scale: Scale
    width: float
    room: tuple[float, float]
    numbers: bool


def _layout(rows: Rows, across: int, width: float) -> _Layout:
    rates, decays = style.levels(rows, "run.lr"), style.levels(rows, "run.weight_decay")
    width = min(width, max(_BESIDE + across * len(rates) * _WIDEST, 2.4))
    cell_width = (width - _BESIDE) / across / len(rates) - 0.02
    cell_height = min(max(cell_width * 0.72, 0.17), 0.42, 3.2 / len(decays))
    room = (cell_width, cell_height)
    return _Layout(rates, decays, scale_of(rows), width, room, numbers_fit(rows, room))


def _refuse_two_in_a_cell(rows: Rows) -> None:
    seen: set[tuple[Any, ...]] = set()
    for row in rows:
        cell = tuple(row.get(name) for name in COLUMNS[:4])
        if cell in seen or row.get("metric") != rows[0].get("metric"):
            raise ValueError(
                f"The heatmap shows one metric, one value a cell, but two rows are of {cell[0]}, "
                f"learning rate {cell[1]}, weight decay {cell[2]}: summarize over the seeds."
            )
        seen.add(cell)


def _draw_panel(axes: Any, rows: Rows, layout: _Layout) -> None:
    for row in rows:
        x = layout.rates.index(row.get("run.lr"))
        y = layout.decays.index(row.get("run.weight_decay"))
        if kind_of(row) is CellKind.VALUE:
            _draw_value(axes, x, y, row, layout)
        else:
            _draw_gone(axes, x, y, kind_of(row))
    axes.set_xlim(-0.5, len(layout.rates) - 0.5)
    axes.set_ylim(-0.5, len(layout.decays) - 0.5)
    _set_ticks(axes.xaxis, layout.rates, layout.room[0])
    _set_ticks(axes.yaxis, layout.decays, layout.room[1], vertical=True)
    style.plain_axes(axes)
    for side in axes.spines.values():
        side.set_visible(True)


def _draw_value(axes: Any, x: int, y: int, row: Mapping[str, Any], layout: _Layout) -> None:
    scale = layout.scale
    colour, ink = scale.colour(row["value"]), scale.ink(row["value"])
    _draw_box(axes, x, y, facecolor=colour, edgecolor="white", linewidth=0.5)
    about: dict[str, Any] = {"fontsize": FONT, "color": ink}
    if scale.signed and row["value"] < 0:
        _draw_box(axes, x, y, fill=False, hatch="////", edgecolor=ink, linewidth=0, alpha=0.4)
        about["bbox"] = {"facecolor": colour, "edgecolor": "none", "pad": 0.8}
    if layout.numbers:
        text = value_text(row, layout.room)
        axes.text(x, y, text, ha="center", va="center", label="_number", **about)
    _draw_marks(axes, x, y, row, ink, apart=layout.numbers)


def _draw_gone(axes: Any, x: int, y: int, kind: CellKind) -> None:
    _draw_box(axes, x, y, facecolor=style.GONE, edgecolor="white", linewidth=0.5)
    marker = "x" if kind is CellKind.DIVERGED else "_"
    about = {"s": 4 * _MARK, "linewidths": 1.0, "color": "#4d4d4d"}
    axes.scatter([x], [y], marker=marker, label=f"_{kind.value}", **about)


def _draw_box(axes: Any, x: int, y: int, **about: Any) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, label=f"_cell {x} {y}", **about))


def _draw_marks(
    axes: Any, x: int, y: int, row: Mapping[str, Any], ink: str, *, apart: bool
) -> None:
    """A ring where something is unconverged, a cross where a seed is gone: beside a number."""
    about: dict[str, Any] = {"s": _MARK, "linewidths": 0.7, "zorder": 3}
    right, left, up = (0.36, -0.36, 0.34) if apart else (0.0, 0.0, 0.0)
    if row.get("unconverged") or row.get("converged") is False:
        ring = {"marker": "o", "facecolors": "none", "edgecolors": ink}
        axes.scatter([x + right], [y + up], label="_unconverged", **ring, **about)
    if row.get("diverged") or row.get("failed"):
        axes.scatter([x + left], [y + up], marker="x", color=ink, label="_partly", **about)


def _set_ticks(axis: Any, values: Sequence[Any], room: float, *, vertical: bool = False) -> None:
    labels = settings(values)
    widest = max(width_of(label) for label in labels)
    upright = not vertical and widest > 0.9 * room
    needed = LINE if vertical or upright else widest
    every = max(1, math.ceil(needed / room))
    axis.set_ticks(range(0, len(values), every), labels[::every])
    if upright:
        axis.set_tick_params(rotation=90)


def _draw_colorbar(figure: Any, grid: Any, scale: Scale, title: str) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.ticker import NullLocator

    if scale.norm is None:
        return
    mappable = ScalarMappable(scale.norm, scale.colours)
    bar = figure.colorbar(mappable, ax=grid, aspect=30, pad=0.015, fraction=0.04)
    label = f"|{title}|, hatched: negative" if scale.signed else title
    bar.set_label(label, fontsize=FONT + 0.5, color=style.INK)
    bar.ax.tick_params(labelsize=FONT, length=2.5, width=0.6, labelcolor=style.INK)
    bar.outline.set_linewidth(0.6)
    bar.outline.set_edgecolor(style.INK)
    bar.ax.yaxis.set_major_formatter(lambda value, _: scale.tick(value))
    bar.ax.yaxis.set_minor_locator(NullLocator())


def _caption(rows: Rows, scale: Scale) -> str:
    kinds = [kind_of(row) for row in rows]
    drawn = kinds.count(CellKind.VALUE)
    cells = len(style.levels(rows, "run.lr")) * len(style.levels(rows, "run.weight_decay"))
    cells *= len(style.levels(rows, "run.optimizer"))
    seeds = sorted({row["n"] for row in rows if row.get("n")})
    name = style.metric_label(rows, plain=True)
    parts = [f"{sentence(name)}: {drawn} of {cells} cells have a value"]
    if seeds:
        many = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        parts[0] += f", over {many} seed{'s' if seeds != [1] else ''}"
    negative = sum(k is CellKind.VALUE and r["value"] < 0 for k, r in zip(kinds, rows, strict=True))
    unconverged = sum(
        k is CellKind.VALUE and bool(r.get("unconverged") or r.get("converged") is False)
        for k, r in zip(kinds, rows, strict=True)
    )
    some = sum(
        k is CellKind.VALUE and bool(r.get("diverged") or r.get("failed"))
        for k, r in zip(kinds, rows, strict=True)
    )
    counted = [
        (kinds.count(CellKind.DIVERGED), "diverged (×, grey)"),
        (kinds.count(CellKind.FAILED), "failed (–, grey)"),
        (some, "lost some seeds (× in the corner)"),
        (unconverged, "with unconverged estimates (○)"),
        (negative, "negative (hatched)" if scale.signed else "negative"),
        (cells - len(rows), "not run (blank)"),
    ]
    parts += [f"{count} {what}" for count, what in counted if count]
    return "; ".join(parts) + "."
