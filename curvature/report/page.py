"""Rows and histories become one self-contained HTML file; nothing is loaded from elsewhere."""

from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from curvature import statistics
from curvature.report import figures, sections


def render(
    rows: Iterable[Mapping[str, Any]],
    *,
    on: str = "test",
    histories: Iterable[Mapping[str, Any]] = (),
    title: str = "Flatness of minima",
    commands: Sequence[str] = (),
) -> str:
    """The page about ``rows``: light and dark, for a screen, a phone or paper.

    ``histories`` are rows of training with the runs' fields; ``commands`` make the page again.
    """
    from jinja2 import Environment, StrictUndefined

    given = [dict(row) for row in rows]
    table = [row for row in given if not statistics.is_tracked(row)]
    if not table:
        raise ValueError("There is nothing to report: the table is empty.")
    best = sections.best_settings(table, on)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.globals["number"] = sections.number
    template = resources.files("curvature.report").joinpath("page.html").read_text("utf-8")
    return environment.from_string(template).render(
        title=title,
        on=on,
        grid=sections.grid(table),
        best=best,
        verdicts=sections.verdicts(table, best, on),
        trouble=sections.trouble(table),
        estimates=sections.estimates(table),
        provenance=sections.provenance(table),
        heatmaps=figures.heatmaps(table, on),
        comparisons=figures.comparisons(table, best, on),
        curves=figures.curves(
            [*(dict(row) for row in histories), *statistics.along_training(given)], best
        ),
        commands=list(commands),
    )
