"""Networks side by side: a line for each, a panel for each metric, with the intervals."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from curvature.plots import style
from curvature.plots.scales import set_value_scale
from curvature.plots.text import FONT, shown, told_apart

COLUMNS = ("name", "metric", "value", "status")
METRICS = ("accuracy", "trace", "eigmax")

Rows = Sequence[Mapping[str, Any]]

_COLOUR, _MARKER = "#0072B2", "o"
_LOG_FROM = 20.0
_EIGENVALUES = ("eigmax", "eigmin")


def networks(
    rows: Iterable[Mapping[str, Any]],
    *,
    metrics: Sequence[str] = METRICS,
    width: float = style.DOUBLE,
    caption: bool = True,
    note: str = "",
) -> Any:
    """Draw rows of one number each, from top to bottom in their order, with low and high."""
    rows = [row for row in rows if row.get("metric") in metrics and not row.get("index")]
    style.require(rows, COLUMNS, "figure of networks")
    present = [metric for metric in metrics if any(row["metric"] == metric for row in rows)]
    names = list(dict.fromkeys(str(row["name"]) for row in rows))
    text = f"{_caption(rows, present, len(names))} {note}".strip()
    side_by_side = width > 5
    down, across = (1, len(present)) if side_by_side else (len(present), 1)
    height = (0.17 * len(names) + 0.55) * down
    figure = style.new_figure(width, height, text, drawn=caption)
    grid = figure.subplots(down, across, squeeze=False, sharey=True)
    looks = _looks(rows)
    for axes, metric in zip(grid.flat, present, strict=True):
        mine = {str(row["name"]): row for row in rows if row["metric"] == metric}
        _draw_panel(axes, [mine.get(name) for name in names], looks)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_yticks(range(len(names)), told_apart(names, 30 if side_by_side else 16))
        axes.tick_params(axis="y", length=0)
    return figure


def _draw_panel(axes: Any, rows: Sequence[Mapping[str, Any] | None], looks: dict[Any, Any]) -> None:
    measured = [row for row in rows if row is not None]
    factor = style.factor(measured[0]["metric"])
    there = [row for row in measured if row.get("value") is not None]
    for y, row in enumerate(rows):
        axes.axhline(y, color=style.GONE, linewidth=0.4, zorder=0)
        if row is None or row.get("value") is None:
            _say_why(axes, y, row)
            continue
        colour, marker = looks.get(row.get("run.optimizer"), (_COLOUR, _MARKER))
        for low, high, line in (("wide_low", "wide_high", 0.7), ("low", "high", 2.2)):
            if row.get(low) is not None and row.get(high) is not None:
                ends = [row[low] * factor, row[high] * factor]
                axes.plot(ends, [y, y], color=colour, linewidth=line, label="_interval")
        hollow = row.get("converged") is False
        face = "white" if hollow else colour
        axes.plot(
            [row["value"] * factor],
            [y],
            marker=marker,
            markersize=4,
            color=colour,
            markerfacecolor=face,
            markeredgewidth=0.8,
            linestyle="none",
            label="_point",
        )
    _set_scale(axes, there, factor)
    style.plain_axes(axes)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(style.metric_label(measured))


def _set_scale(axes: Any, there: Rows, factor: float) -> None:
    values = [row["value"] * factor for row in there]
    set_value_scale(axes.xaxis, values, log_from=_LOG_FROM)
    if not values:
        axes.set_xticks([])
        axes.set_xlim(0, 1)


def _say_why(axes: Any, y: int, row: Mapping[str, Any] | None) -> None:
    text = "not measured" if row is None else shown(row.get("status") or "no value")
    axes.text(
        0.03,
        y,
        text,
        transform=axes.get_yaxis_transform(),
        va="center",
        fontsize=FONT,
        color=style.INK,
        style="italic",
        label="_absent",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
    )


def _looks(rows: Rows) -> dict[Any, Any]:
    """Colour and marker by optimizer, where there are several to tell apart."""
    optimizers = [name for name in style.levels(rows, "run.optimizer") if name is not None]
    if len(optimizers) < 2:
        return {}
    return {name: style.look(name, optimizers)[1:] for name in optimizers}


def _caption(rows: Rows, metrics: Sequence[str], count: int) -> str:
    there = [row for row in rows if row.get("value") is not None]
    parts = [f"{count} networks{_protocol(there)}"]
    thick = ["the probes (Tr(H))"] * ("trace" in metrics)
    thick += ["the residual (λ)"] * any(metric in _EIGENVALUES for metric in metrics)
    if thick:
        parts.append(f"thick bars: 95 % interval of {' and '.join(thick)}")
    if any(row.get("wide_low") is not None for row in there):
        parts.append("thin bars: 95 % interval over examples like these")
    unconverged = sum(row.get("converged") is False for row in there)
    if unconverged:
        parts.append(f"{unconverged} of {len(there)} values are unconverged (hollow)")
    gone = {str(row["name"]) for row in rows if row.get("status") == "diverged"}
    if gone:
        parts.append(f"{len(gone)} diverged and {'is' if len(gone) == 1 else 'are'} not drawn")
    return "; ".join(parts) + ". One network each: nothing is said of the optimizers behind them."


def _protocol(rows: Rows) -> str:
    """On what all were measured, of what the rows say and agree in."""
    found = []
    for name in ("data_name", "split", "examples", "loss", "dtype"):
        values = {row.get(name) for row in rows if row["metric"] not in ("accuracy",)} or {
            row.get(name) for row in rows
        }
        if len(values) == 1 and (value := values.pop()) is not None:
            found.append(
                {"examples": "{} examples", "split": "{} split"}.get(name, "{}").format(
                    f"{value:,}" if isinstance(value, int) else shown(value)
                )
            )
    return f" on {', '.join(found)}" if found else ""
