"""Curvature that was tracked while runs trained, one row per run and step."""

from collections.abc import Iterable, Mapping
from typing import Any

Row = dict[str, Any]

TRACKED = ("eigmax", "trace", "stability_threshold")


def is_tracked(row: Mapping[str, Any]) -> bool:
    """Whether it was measured on a budget, while the run went on."""
    return str(row.get("analysis") or "").split("-")[0] == "tracking"


def along_training(rows: Iterable[Mapping[str, Any]], analysis: str | None = None) -> list[Row]:
    """A row for each run and step, with a column for each tracked metric; by step.

    ``unconverged`` names, with blanks between, the metrics whose estimate was.

    Raises:
        ValueError: if two trackers measured one run and ``analysis`` names none of them.
    """
    found: dict[tuple[Any, Any], Row] = {}
    trackers: dict[Any, str] = {}
    for row in rows:
        if not is_tracked(row) or analysis not in (None, row["analysis"]):
            continue
        run, step, metric = row.get("run"), row.get("step"), row.get("metric")
        if trackers.setdefault(run, row["analysis"]) != row["analysis"]:
            raise ValueError(
                f"Run {run} was tracked as {trackers[run]} and as {row['analysis']}: choose one."
            )
        about = {"run": run, "step": step, "epoch": row.get("epoch"), "unconverged": ""}
        about |= {name: value for name, value in row.items() if name.startswith("run.")}
        wide = found.setdefault((run, step), about)
        if metric in TRACKED and row.get("block") is None:
            wide[metric] = row.get("value")
            if row.get("converged") is False and row.get("value") is not None:
                wide["unconverged"] = f"{wide['unconverged']} {metric}".strip()
    return sorted(found.values(), key=lambda row: (str(row["run"]), row["step"]))
