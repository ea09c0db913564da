"""Linear, logarithmic or symmetric-logarithmic axes, as the values ask for."""

import math
from collections.abc import Sequence
from typing import Any

from curvature.plots.text import short

LOG_FROM = 100.0  # a larger ratio is drawn on a logarithmic axis


def set_value_scale(axis: Any, values: Sequence[float], *, log_from: float = LOG_FROM) -> None:
    """Set the scale, its limits and few, short ticks of the axis from the values on it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    sizes = [abs(value) for value in values if value != 0]
    wide = bool(sizes) and max(sizes) > log_from * min(sizes)
    scale = "linear" if not wide else "log" if min(values) > 0 else "symlog"
    if scale == "symlog":
        _set_scale(axis, scale, linthresh=min(sizes))
    else:
        _set_scale(axis, scale)
    if scale == "log":
        decades = math.log10(max(values)) - math.log10(min(values))
        few = decades < 1.5  # powers of ten alone would label one tick or none
        axis.set_major_locator(LogLocator(subs=[1, 2, 5] if few else [1], numticks=6))
        axis.set_minor_locator(NullLocator() if decades > 6 or few else LogLocator(subs=[2, 5]))
        axis.set_minor_formatter(NullFormatter())
    elif scale == "symlog":
        axis.set_major_locator(_SymmetricTicks(sizes, values).locator())
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        return
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value, 1)))


class _SymmetricTicks:
    """0, and at most three powers of ten on either side that has values."""

    def __init__(self, sizes: Sequence[float], values: Sequence[float]) -> None:
        low, high = math.floor(math.log10(min(sizes))), math.ceil(math.log10(max(sizes)))
        step = max(1, math.ceil((high - low) / 3))
        lowest = low + step / 2  # those nearer to 0 would run into its label
        powers = [10.0**k for k in range(high, low - 1, -step) if lowest < k < 308]
        below = [-power for power in powers if min(values) <= -power / 10**step]
        above = [power for power in powers if max(values) >= power / 10**step]
        self.ticks = [*below, 0.0, *reversed(above)]

    def locator(self) -> Any:
        from matplotlib.ticker import FixedLocator

        return FixedLocator(self.ticks)


def _set_scale(axis: Any, scale: str, **settings: Any) -> None:
    """An axis alone has no public way to set its scale."""
    axes = axis.axes
    setter = axes.set_xscale if axis is axes.xaxis else axes.set_yscale
    setter(scale, **settings)
