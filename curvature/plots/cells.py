"""The cells of a heatmap: what each shows, in which colour, with which number."""

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curvature.plots import style
from curvature.plots.text import LINE, short, width_of

LOG_FROM = 100.0  # a larger ratio of the largest to the smallest value is coloured by logarithms


class CellKind(enum.Enum):
    """What became of a cell's runs."""

    VALUE = "value"
    DIVERGED = "diverged"
    FAILED = "failed"


@dataclass(frozen=True)
class Scale:
    """From a value to its colour; ``signed``: by its size, with the sign shown otherwise."""

    norm: Any
    colours: Any
    logarithmic: bool
    signed: bool
    factor: float

    def colour(self, value: float) -> Any:
        """RGBA; a zero on a logarithmic scale has the lowest colour."""
        size = abs(value) if self.signed else value
        return self.colours(float(self.norm(max(size, self.norm.vmin))))

    def tick(self, value: float) -> str:
        """The label of a tick of the scale."""
        shown = value * self.factor
        if self.logarithmic:
            return short(shown, 1)
        return f"{shown:.6g}" if abs(shown) < 1e5 else short(shown, 3)

    def ink(self, value: float) -> str:
        """Black or white, whichever reads better on the cell."""
        red, green, blue, _ = (_linear(part) for part in self.colour(value))
        luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        return "#000000" if luminance > 0.18 else "#ffffff"


def kind_of(row: Mapping[str, Any]) -> CellKind:
    """A value that is NaN or infinite is none."""
    value = row.get("value")
    if value is not None and math.isfinite(value):
        return CellKind.VALUE
    return CellKind.FAILED if row.get("status") == "failed" else CellKind.DIVERGED


def scale_of(rows: Sequence[Mapping[str, Any]]) -> Scale:
    """Linear, or logarithmic where sizes span more than two decades."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm, Normalize

    values = [row["value"] for row in rows if kind_of(row) is CellKind.VALUE]
    factor = style.factor(rows[0].get("metric"))
    sizes = [abs(value) for value in values if value != 0]
    colours = colormaps["viridis"]
    if not values:
        return Scale(None, colours, False, False, factor)
    if sizes and max(sizes) > LOG_FROM * min(sizes):
        signed = min(values) < 0
        return Scale(LogNorm(min(sizes), max(sizes)), colours, True, signed, factor)
    low, high = min(values), max(values)
    if low == high:
        margin = abs(low) * 0.01 or 1.0
        low, high = low - margin, high + margin
    return Scale(Normalize(low, high), colours, False, False, factor)


def numbers_fit(rows: Sequence[Mapping[str, Any]], room: tuple[float, float]) -> bool:
    """Every value has room in a cell of this width and height: all are written, or none."""
    values = [row for row in rows if kind_of(row) is CellKind.VALUE]
    return room[1] >= LINE * 0.95 and all(value_text(row, room) for row in values)


def value_text(row: Mapping[str, Any], room: tuple[float, float]) -> str:
    """The most digits that fit the cell; nothing where not even one does."""
    value = row["value"] * style.factor(row.get("metric"))
    texts = [short(value, 2), short(value, 1)]
    if row.get("metric") == "accuracy":
        texts = [f"{value:.1f}", f"{value:.0f}"]
    return next((text for text in texts if width_of(text) <= room[0] * 0.88), "")


def _linear(part: float) -> float:
    return part / 12.92 if part <= 0.04045 else float(((part + 0.055) / 1.055) ** 2.4)
