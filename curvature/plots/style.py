"""What all figures share: sizes of a printed page, colours, and text that is safe to draw."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from curvature.plots.text import FONT, LINE, shown, width_of, wrapped

SINGLE, DOUBLE = 3.3, 6.9  # inches: a column of a paper, and two

INK = "#1a1a1a"  # frames and labels; values in cells are #000000 or #ffffff
FAINT = "#8a8a8a"
GONE = "#d0d0d0"  # a diverged cell

OPTIMIZERS: dict[str, tuple[str, str, str]] = {  # label, colour (Okabe & Ito 2008), marker
    "sgd": ("SGD", "#0072B2", "o"),
    "msgd": ("mSGD", "#56B4E9", "v"),
    "adam": ("Adam", "#009E73", "s"),
    "sam": ("SAM", "#E69F00", "D"),
    "sa-sgd": ("SA-SGD", "#CC79A7", "^"),
    "sa-sam": ("SA-SAM", "#D55E00", ">"),
}
METRICS = {
    "accuracy": "accuracy",
    "loss": "loss",
    "calibration_error": "calibration error",
    "weight_norm": "‖w‖",
    "gradient_norm": "‖∇L‖",
    "trace": "Tr(H)",
    "scale_invariant_trace": "Σ w² H_ii",
    "eigmax": "λ_max(H)",
    "eigmin": "λ_min(H)",
    "eigenvalue": "λ(H)",
}

_MATHEMATICS = {
    "trace": r"$\mathrm{Tr}(H)$",
    "eigmax": r"$\lambda_{\max}(H)$",
    "eigmin": r"$\lambda_{\min}(H)$",
    "weight_norm": r"$\Vert w\Vert$",
    "gradient_norm": r"$\Vert\nabla L\Vert$",
}
_OTHERS = [("#7F7F7F", "X"), ("#5D3A9B", "h"), ("#994F00", "<"), ("#000000", "P"), ("#40B0A6", "*")]


def require(rows: Sequence[Mapping[str, Any]], columns: Iterable[str], figure: str) -> None:
    """Refuse an empty table, and one without the columns that the figure draws."""
    if not rows:
        raise ValueError(f"The {figure} has nothing to draw: the table is empty.")
    there = {name for row in rows for name in row}
    missing = [name for name in columns if name not in there]
    if missing:
        raise ValueError(f"The {figure} needs the column {', '.join(missing)}; the table has none.")


def levels(rows: Iterable[Mapping[str, Any]], column: str) -> list[Any]:
    """The values of a column: optimizers in their order, numbers by size, text by the alphabet."""
    known = list(OPTIMIZERS)

    def order(value: Any) -> tuple[Any, ...]:
        if value is None:
            return (0, 0.0, "")
        if isinstance(value, int | float):
            return (1, float(value), "")
        rank = known.index(value) if value in known else len(known)
        return (2, float(rank), str(value))

    return sorted({row.get(column) for row in rows}, key=order)


def look(name: Any, among: Sequence[Any]) -> tuple[str, str, str]:
    """Label, colour and marker of an optimizer; the six are the same in every figure."""
    if name in OPTIMIZERS:
        return OPTIMIZERS[name]
    others = [other for other in among if other not in OPTIMIZERS]
    return shown(name), *_OTHERS[others.index(name) % len(_OTHERS)]


def metric_label(
    rows: Sequence[Mapping[str, Any]], metric: str | None = None, *, plain: bool = False
) -> str:
    """The metric's name with what it was measured on; accuracy in percent."""
    metric = str(metric or rows[0].get("metric"))
    on = next((row["on"] for row in rows if row.get("on")), None)
    name = METRICS.get(metric, shown(metric))
    name = name if plain else _MATHEMATICS.get(metric, name)
    if metric == "accuracy":
        return f"{shown(on)} accuracy (%)" if on else "accuracy (%)"
    return f"{name} on {shown(on)}" if on else name


def factor(metric: Any) -> float:
    """What a value is multiplied by to be shown."""
    return 100.0 if metric == "accuracy" else 1.0


def interval(row: Mapping[str, Any]) -> list[float]:
    """Its ends as they are drawn; of an accuracy within its bounds, which a t-interval may pass."""
    most = factor(row.get("metric"))
    ends = [row["low"] * most, row["high"] * most]
    return [min(max(end, 0.0), most) for end in ends] if row.get("metric") == "accuracy" else ends


def new_figure(width: float, height: float, caption: str, *, drawn: bool) -> Any:
    """A Figure of no window, with its caption as its label and, ``drawn``, below the axes."""
    from matplotlib.figure import Figure

    lines = wrapped(caption, width - 0.1) if drawn else []
    below = (len(lines) + 0.6) * LINE if lines else 0.0
    figure = Figure(figsize=(width, height + below), dpi=200, layout="constrained")
    figure.set_label(caption.replace(r"\$", "$"))
    engine: Any = figure.get_layout_engine()
    share = below / (height + below)
    engine.set(rect=(0, share, 1, 1 - share), w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.02)
    if lines:
        x, y = 0.05 / width, (below - 0.3 * LINE) / (height + below)
        text = "\n".join(lines)
        figure.text(x, y, text, va="top", fontsize=FONT, color=INK, linespacing=1.25)
    return figure


def say_nothing_is_left(axes: Any) -> None:
    """Axes without a value say why, rather than show a scale."""
    axes.text(
        0.5,
        0.5,
        "all diverged or failed",
        transform=axes.transAxes,
        ha="center",
        fontsize=FONT,
        color=INK,
    )
    axes.set_yticks([])


def panels(count: int, width: float) -> tuple[int, int]:
    """Rows and columns of equal panels, as even as they come."""
    across = min(count, max(1, round(width / 2.3)))
    down = -(-count // across)
    return down, -(-count // down)


def plain_axes(axes: Any) -> None:
    """Thin frame, small ticks, no box."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for spine in axes.spines.values():
        spine.set_linewidth(0.6)
        spine.set_color(INK)
    axes.tick_params(labelsize=FONT, length=2.5, width=0.6, color=INK, labelcolor=INK, which="both")
    axes.tick_params(which="minor", length=1.5)
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set_size(FONT + 0.5)
        label.set_color(INK)
    axes.patch.set_alpha(0.0)


def draw_point(
    axes: Any, x: float, y: float, colour: str, marker: str, *, hollow: bool, alpha: float = 0.8
) -> None:
    """A value; hollow where it is unconverged."""
    axes.plot(
        [x],
        [y],
        linestyle="none",
        marker=marker,
        markersize=3.3,
        markeredgewidth=0.7,
        markeredgecolor=colour,
        markerfacecolor="none" if hollow else colour,
        alpha=alpha,
        label="_point",
    )


def legend_above(figure: Any, axes: Any, width: float) -> None:
    """A legend over the whole figure, in as many columns as fit."""
    handles, labels = axes.get_legend_handles_labels()
    widest = max(width_of(label) for label in labels) + 0.4
    columns = max(1, min(len(labels), int((width - 0.1) / widest)))
    figure.legend(
        handles,
        labels,
        loc="outside upper center",
        ncols=columns,
        frameon=False,
        fontsize=FONT,
        labelcolor=INK,
        handlelength=1.4,
        handletextpad=0.4,
        columnspacing=0.9,
        borderpad=0.1,
    )
