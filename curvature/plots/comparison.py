"""Optimizers side by side at their best settings: a point for each seed, the mean, its interval."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from curvature.plots import style
from curvature.plots.scales import LOG_FROM, set_value_scale
from curvature.plots.text import FONT

COLUMNS = ("run.optimizer", "metric", "value", "n", "status")
METRICS = ("accuracy", "trace", "eigmax")
BY_FACTORS = ("trace", "eigmax")

Rows = Sequence[Mapping[str, Any]]


def comparison(
    rows: Iterable[Mapping[str, Any]],
    *,
    metrics: Sequence[str] = METRICS,
    width: float = style.DOUBLE,
    caption: bool = True,
    note: str = "",
) -> Any:
    """Draw a panel for each metric. Rows without a `run` are the summaries, the others the seeds.

    ``note`` follows the counts in the caption: what the tests say, or how settings were chosen.
    """
    rows = [row for row in rows if row.get("metric") in metrics]
    style.require(rows, COLUMNS, "comparison")
    present = [metric for metric in metrics if any(row["metric"] == metric for row in rows)]
    optimizers = style.levels(rows, "run.optimizer")
    text = f"{_caption(rows, present)} {note}".strip()
    side_by_side = width > 5
    across = len(present) if side_by_side else 1
    down = 1 if side_by_side else len(present)
    figure = style.new_figure(
        width, 2.3 if side_by_side else 1.55 * down + 0.5, text, drawn=caption
    )
    grid = figure.subplots(down, across, squeeze=False, sharex=True)
    for axes, metric in zip(grid.flat, present, strict=True):
        _draw_panel(axes, [row for row in rows if row["metric"] == metric], optimizers)
    return figure


def _draw_panel(axes: Any, rows: Rows, optimizers: Sequence[Any]) -> None:
    factor = style.factor(rows[0]["metric"])
    for x, optimizer in enumerate(optimizers):
        _, colour, marker = style.look(optimizer, optimizers)
        mine = [row for row in rows if row.get("run.optimizer") == optimizer]
        seeds = [row for row in mine if row.get("run") is not None and row.get("value") is not None]
        for i, row in enumerate(seeds):
            at = x - 0.14 - 0.22 * _spread(i, len(seeds))
            hollow = row.get("converged") is False
            style.draw_point(axes, at, row["value"] * factor, colour, marker, hollow=hollow)
        for row in mine:
            if row.get("run") is None:
                _draw_mean(axes, x + 0.2, row, colour, factor)
    values = [row["value"] * factor for row in rows if row.get("value") is not None]
    set_value_scale(axes.yaxis, values, log_from=_log_from(rows))
    if not values:
        style.say_nothing_is_left(axes)
    labels = [style.look(name, optimizers)[0] for name in optimizers]
    axes.set_xlim(-0.6, len(optimizers) - 0.4)
    axes.set_xticks(range(len(optimizers)), labels)
    style.plain_axes(axes)
    for label in axes.get_xticklabels():
        label.set(rotation=35, ha="right", rotation_mode="anchor")
    axes.set_ylabel(style.metric_label(rows))
    axes.yaxis.label.set_size(FONT + 0.5)


def _draw_mean(axes: Any, x: float, row: Mapping[str, Any], colour: str, factor: float) -> None:
    if row.get("value") is None:
        return
    y = row["value"] * factor
    if row.get("low") is not None and row.get("high") is not None:
        axes.plot(
            [x, x],
            style.interval(row),
            color=colour,
            linewidth=1.2,
            solid_capstyle="butt",
            label="_interval",
        )
    axes.plot([x - 0.1, x + 0.1], [y, y], color=style.INK, linewidth=1.4, label="_mean")


def _log_from(rows: Rows) -> float:
    """Positive curvatures are compared by factors: an interval over decades is drawn on them."""
    ends = [row[end] for row in rows for end in ("value", "low", "high") if row.get(end)]
    if rows[0]["metric"] not in BY_FACTORS or not ends or min(ends) <= 0:
        return LOG_FROM
    return 0.0 if max(ends) > LOG_FROM / 10 * min(ends) else LOG_FROM


def _spread(i: int, n: int) -> float:
    """From −1/2 to 1/2 over the seeds, so that equal values stay apart."""
    return 0.0 if n < 2 else i / (n - 1) - 0.5


def _caption(rows: Rows, metrics: Sequence[str]) -> str:
    seeds = [row for row in rows if row.get("run") is not None]
    means = [row for row in rows if row.get("run") is None]
    counts = sorted({row["n"] for row in means if row.get("n")})
    many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}" if counts else "0"
    parts = [f"Points: {many} seed{'s' if many != '1' else ''}; bar: mean and 95 % interval"]
    lonely = sum(row.get("n") == 1 for row in means)
    if lonely:
        parts.append(f"{lonely} of one seed have no interval")
    unconverged = sum(r.get("converged") is False and r.get("value") is not None for r in seeds)
    if unconverged:
        parts.append(f"{unconverged} of {len(seeds)} values are unconverged (hollow)")
    gone = sum(row.get("value") is None for row in seeds)
    if gone:
        parts.append(f"{gone} diverged or failed and are not drawn")
    without = style.levels([row for row in means if row.get("value") is None], "run.optimizer")
    if without:
        names = ", ".join(style.look(name, without)[0] for name in without)
        parts.append(f"all of {names} diverged or failed")
    return "; ".join(parts) + "."
