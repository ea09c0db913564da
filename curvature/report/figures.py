"""The figures of the page as inline SVG; what can't be drawn has the reason in its place."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from curvature import plots, statistics
from curvature.plots import style

Row = dict[str, Any]

METRICS = ("accuracy", "trace", "eigmax")

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_UNFIT = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True)
class Drawing:
    """``svg`` is None where there is nothing to draw; the caption then says why."""

    name: str
    caption: str
    svg: Any


def heatmaps(rows: Sequence[Row], on: str) -> list[Drawing]:
    """Of each metric on the test data, and on every other data set that it was measured on."""
    drawings = []
    for metric in METRICS:
        there = {statistics.measured_on(row) for row in rows if row.get("metric") == metric}
        others = sorted(str(name) for name in there - {None, on, "train", "val"})
        for data in (on, *others):

            def draw(metric: str = metric, data: str = data) -> Any:
                table = statistics.summarize(statistics.select(rows, metric, data))
                return plots.heatmap(table, caption=False)

            drawings.append(_drawing(f"{metric} on {data}", draw))
    return drawings


def comparisons(rows: Sequence[Row], best: Sequence[Row], on: str) -> list[Drawing]:
    """Optimizers at their best settings, over learning rates, and accuracy against flatness."""
    drawings = []
    if best:
        drawings.append(_drawing("comparison", lambda: _comparison(rows, best, on)))
    for metric in METRICS:

        def draw(metric: str = metric) -> Any:
            table = _over_rates(rows, metric, bool(best), on)
            note = "At each rate the weight decay that is best on the validation data."
            return plots.sensitivity(table, caption=False, note=note if best else "")

        drawings.append(_drawing(f"{metric} over learning rates", draw))
    for metric in METRICS[1:]:

        def relate(metric: str = metric) -> Any:
            return plots.relation(statistics.pair(rows, metric, on=on), caption=False)

        drawings.append(_drawing(f"accuracy against {metric}", relate))
    return drawings


def curves(histories: Sequence[Row], best: Sequence[Row]) -> list[Drawing]:
    """Training at the best settings, or of all runs where none was chosen."""
    chosen = statistics.at_best(histories, best) if best else list(histories)
    if not chosen:
        return []
    return [_drawing("training", lambda: plots.training_curves(chosen, caption=False))]


def inline(svg: bytes, prefix: str) -> Any:
    """An SVG fit to stand in a page beside others: its own ids, the page's colour of ink."""
    from markupsafe import Markup

    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(svg)
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    for element in root.iter():
        for name, value in list(element.attrib.items()):
            del element.attrib[name]
            name = "href" if name == _LINK else name  # HTML knows no namespaces
            element.set(name, _own(name, value, prefix))
    root.set("role", "img")
    root.set("aria-labelledby", f"{prefix}-caption")
    text = ElementTree.tostring(root, encoding="unicode")
    return Markup(text.replace(style.INK, "currentColor"))


def _own(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}-{_UNFIT.sub('-', value)}"
    if name == "href" and value.startswith("#"):
        return f"#{prefix}-{_UNFIT.sub('-', value[1:])}"
    return _REFERENCE.sub(lambda m: f"url(#{prefix}-{_UNFIT.sub('-', m[1])})", value)


def _drawing(name: str, draw: Callable[[], Any]) -> Drawing:
    prefix = _UNFIT.sub("-", name)
    try:
        figure = draw()
    except ValueError as error:  # a table needn't have everything
        return Drawing(prefix, f"No figure of {name}: {error}", None)
    svg = inline(plots.figure_bytes(figure, "svg", transparent=True), prefix)
    return Drawing(prefix, plots.caption_of(figure), svg)


def _comparison(rows: Sequence[Row], best: Sequence[Row], on: str) -> Any:
    chosen = statistics.at_best(rows, best)
    table: list[Mapping[str, Any]] = []
    for metric in METRICS:
        if any(row.get("metric") == metric for row in chosen):
            seeds = statistics.select(chosen, metric, on)
            table += [*seeds, *statistics.summarize(seeds, by=("run.optimizer",))]
    return plots.comparison(table, caption=False)


def _over_rates(rows: Sequence[Row], metric: str, chosen: bool, on: str) -> list[Row]:
    """At each rate the weight decay that is best on the validation data, where there are any."""
    by = ("run.optimizer", "run.lr")
    kept = (
        statistics.at_best(rows, statistics.best_settings(rows, by=by), by=by) if chosen else rows
    )
    return statistics.summarize(statistics.select(kept, metric, on))
