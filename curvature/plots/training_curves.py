"""Loss, validation accuracy, step size η_t, radius ρ_t and tracked curvature over the epochs.

Beside λ_max stands, dashed, the curvature from which the optimizer's steps diverge: 2/η and so on.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from curvature.plots import style
from curvature.plots.scales import set_value_scale
from curvature.plots.text import FONT, shown

COLUMNS = ("run",)  # and an axis
AXES = ("epoch", "step")
PANELS = {
    "train_loss": "training loss",
    "val_loss": "validation loss",
    "val_accuracy": "validation accuracy (%)",
    "eta": r"step size $\eta_t$",
    "rho": r"radius $\rho_t$",
    "eigmax": r"$\lambda_{\max}$",
    "trace": "Tr(H)",
}
BESIDE = {"eigmax": "stability_threshold"}  # drawn dashed in the same panel

Rows = Sequence[Mapping[str, Any]]


def training_curves(
    rows: Iterable[Mapping[str, Any]],
    *,
    panels: Sequence[str] = tuple(PANELS),
    width: float = style.DOUBLE,
    caption: bool = True,
) -> Any:
    """Draw rows of history, a line for each run, coloured by `run.optimizer` where rows have it.

    Rows of `statistics.along_training` may stand among them; their unconverged points are hollow.
    """
    rows = list(rows)
    style.require(rows, COLUMNS, "figure of training curves")
    present = [p for p in panels if any(row.get(p) is not None for row in rows)]
    if not present:
        raise ValueError(f"The training curves need one of the columns {', '.join(panels)}.")
    axis = next((name for name in AXES if any(row.get(name) is not None for row in rows)), None)
    if axis is None:
        raise ValueError(f"The training curves need one of the columns {', '.join(AXES)}.")
    rows = [row for row in rows if row.get(axis) is not None]
    optimizers = style.levels(rows, "run.optimizer")
    down, across = style.panels(len(present), width)
    figure = style.new_figure(width, 1.75 * down + 0.35, _caption(rows, present), drawn=caption)
    grid = figure.subplots(down, across, squeeze=False)
    for axes, panel in zip(grid.flat, present, strict=False):
        _draw_panel(axes, rows, panel, optimizers, axis)
    for axes in grid.flat[len(present) :]:
        axes.set_visible(False)
    if optimizers != [None]:
        first = grid.flat[0]
        for name in optimizers:
            label, colour, _ = style.look(name, optimizers)
            first.plot([], [], color=colour, linewidth=1, label=label)
        style.legend_above(figure, first, width)
    return figure


def _draw_panel(axes: Any, rows: Rows, panel: str, optimizers: Sequence[Any], axis: str) -> None:
    from matplotlib.ticker import MaxNLocator

    factor = 100.0 if panel == "val_accuracy" else 1.0
    values: list[float] = []
    for run in dict.fromkeys(row["run"] for row in rows):
        line = sorted((row for row in rows if row["run"] == run), key=lambda row: row[axis])
        drawn = [row for row in line if row.get(panel) is not None]
        if not drawn:
            continue
        _, colour, _ = style.look(line[0].get("run.optimizer"), optimizers)
        y = [row[panel] * factor for row in drawn]
        values += y
        x = [row[axis] for row in drawn]
        axes.plot(x, y, color=colour, linewidth=0.9, alpha=0.85, label="_curve")
        if len(drawn) == 1:
            axes.plot(x, y, color=colour, marker=".", markersize=4, label="_lone")
        for row in drawn:
            if _is_unconverged(row, panel):
                style.draw_point(axes, row[axis], row[panel] * factor, colour, "o", hollow=True)
        if line[-1].get("status") == "diverged":
            axes.plot(x[-1:], y[-1:], color=colour, marker="x", markersize=4, label="_diverged")
        values += _draw_beside(axes, line, BESIDE.get(panel), axis, colour)
    set_value_scale(axes.yaxis, values)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    style.plain_axes(axes)
    axes.set_xlabel(axis, fontsize=FONT + 0.5)
    axes.set_ylabel(PANELS.get(panel, shown(panel)), fontsize=FONT + 0.5)


def _draw_beside(axes: Any, line: Rows, name: str | None, axis: str, colour: str) -> list[float]:
    """The threshold over the same axis, dashed; its values."""
    if name is None:
        return []
    drawn = [row for row in line if row.get(name) is not None]
    x, y = [row[axis] for row in drawn], [row[name] for row in drawn]
    if drawn:
        axes.plot(x, y, color=colour, linewidth=0.8, linestyle=(0, (4, 2)), label="_threshold")
    return y


def _is_unconverged(row: Mapping[str, Any], panel: str) -> bool:
    return panel in str(row.get("unconverged") or "").split()


def _caption(rows: Rows, panels: Sequence[str]) -> str:
    runs = {row["run"] for row in rows}
    diverged = {row["run"] for row in rows if row.get("status") == "diverged"}
    parts = [f"{len(runs)} run{'s' if len(runs) != 1 else ''}"]
    if diverged:
        parts.append(f"{len(diverged)} diverged (× at the last epoch before)")
    hollow = sum(_is_unconverged(row, panel) for row in rows for panel in panels)
    if hollow:
        parts.append(f"{hollow} unconverged value{'s' if hollow != 1 else ''} (hollow)")
    beside = {BESIDE[panel] for panel in panels if panel in BESIDE}
    if any(row.get(name) is not None for row in rows for name in beside):
        parts.append("dashed: the λ_max from which full-batch steps diverge (2/η for SGD)")
    return "; ".join(parts) + "."
