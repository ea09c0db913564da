"""Relative error of Tr(H) against time, a line for each method and a panel for each network."""

from pathlib import Path
from typing import Any

import numpy as np

import report
from results import Results
from unit import middle

_COLORS = {"ours": "C3", "pyhessian": "C0", "curvlinops": "C2", "eigenthings": "C4"}
_SEEDS = 10  # from which on a root mean square over them says something
_WIDTHS = {"pyhessian": 4, "curvlinops": 2, "eigenthings": 1}  # they lie on each other


def draw(results: Results, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = [n for n in report.SUBJECTS if results.get(f"trace/{n}/pool") is not None]
    figure, axes = plt.subplots(
        1, len(names), figsize=(max(6, 3.6 * len(names)), 3.6), squeeze=False
    )
    for axis, name in zip(axes[0], names, strict=True):
        _panel(axis, results, name)
    axes[0, 0].set_ylabel("relative error of Tr(H)")
    lines = {
        line.get_label(): line
        for axis in axes[0]
        for line in axis.get_lines()
        if not line.get_label().startswith("_")
    }
    figure.legend(lines.values(), lines, loc="lower center", ncols=4, fontsize=7, frameon=False)
    figure.tight_layout(rect=(0, 0.13, 1, 1))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _panel(axis: Any, results: Results, name: str) -> None:
    pool = results.get(f"trace/{name}/pool")
    for tool in report.TOOLS:
        calls = results.get(f"trace/{name}/calls/{tool}")
        if calls is None or "failed" in calls:
            continue
        each, title = middle(run["cpu"] for run in calls["runs"]), report.TITLES[tool]
        deviation = pool["deviation"] / abs(pool["value"])
        products = np.geomspace(1, max(10, 4e4 * deviation**2), 30)
        axis.plot(
            products * each,
            deviation / products**0.5,
            color=_COLORS[tool],
            lw=_WIDTHS[tool],
            label=title,
        )
        for method, style in (("hutch++", "--"), ("xtrace", ":")):
            if (tool, method) in (("curvlinops", "xtrace"), ("curvlinops", "hutch++")) or (
                (tool, method) == ("eigenthings", "hutch++")
            ):
                errors = {int(k): e for k, e in pool["errors"][method].items()}
                axis.plot(
                    [k * each for k in errors],
                    list(errors.values()),
                    style,
                    color=_COLORS[tool],
                    label=f"{title}, {method}",
                )
    value, points = results.get(f"trace/{name}/reference")["value"], []
    for rtol in ("0.03", "0.01", "0.003"):
        runs = results.get(f"trace/{name}/ours/{rtol}")
        if len(runs or ()) >= _SEEDS:
            errors = [run["found"]["value"] / value - 1 for run in runs]
            points.append((middle(r["cpu"] for r in runs), float(np.square(errors).mean() ** 0.5)))
    if points:
        axis.plot(
            *zip(*sorted(points), strict=True), "o-", color=_COLORS["ours"], label="curvature"
        )
    axis.axhline(0.01, color="0.7", linewidth=0.8, zorder=0)
    axis.set(xscale="log", yscale="log", xlabel="seconds of one core")
    axis.set_title(results.get(f"subject/{name}")["title"], fontsize=8)
