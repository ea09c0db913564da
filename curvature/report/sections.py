"""What the page says in words and tables, from the rows."""

import statistics as stdlib_statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from curvature import statistics
from curvature.plots.style import METRICS, levels, look
from curvature.plots.text import settings, short
from curvature.statistics.provenance import MEASURED_ALIKE, SETTING

Row = dict[str, Any]

TRUST = {
    "accuracy": "Exact on these examples; for new ones of their kind it has the sampling error.",
    "loss": "Exact on these examples, without the weight decay's term.",
    "trace": "A mean over random probes; the error is their standard error.",
    "eigmax": "From matrix-vector products. The residual bounds the distance to an eigenvalue; "
    "that no larger one was missed is likely, not proven. Unconverged, it is a lower bound.",
}

_NAMES = {"run.lr": "lr", "run.weight_decay": "weight decay", "run.rho": "ρ"}
_MOST = 60  # lines of what went wrong


def number(value: float | None, metric: str = "") -> str:
    """A value in the text: accuracy in percent, the rest in three digits."""
    if value is None:
        return "–"
    return f"{100 * value:.2f} %" if metric == "accuracy" else short(value, 3)


def grid(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What was run: the values of each axis of the grid, and how many runs there are."""
    runs = {row.get("run") for row in rows}
    found = [("runs", str(len(runs)))]
    axes = ("run.optimizer", *SETTING, "run.seed", "run.model", "run.data", "run.epochs")
    for name in axes:
        values = [value for value in levels(rows, name) if value not in (None, "")]
        if values:
            found.append((name.removeprefix("run.").replace("_", " "), _listed(values)))
    return found


def best_settings(rows: Sequence[Row], on: str) -> list[Row]:
    """Each optimizer's setting, with its numbers on ``on``; empty without validation rows."""
    try:
        best = statistics.best_settings(rows)
    except ValueError:
        return []
    optimizers = levels(best, "run.optimizer")
    best.sort(key=lambda row: optimizers.index(row["run.optimizer"]))
    there = {row.get("metric") for row in rows}
    results = {
        METRICS[m]: _results(statistics.at_best(rows, best), m, on) for m in TRUST if m in there
    }
    for row in best:
        row["label"] = _label(row["run.optimizer"], optimizers)
        row["setting"] = _setting(row)
        nothing = {"value": "–", "interval": "", "note": ""}
        row["results"] = {m: of.get(row["run.optimizer"], nothing) for m, of in results.items()}
    return best


def verdicts(rows: Sequence[Row], best: Sequence[Row], on: str) -> list[Row]:
    """For each metric the differences that may be named, and the pairs of which none may."""
    found = []
    chosen = statistics.at_best(rows, best)
    for metric in ("accuracy", "trace", "eigmax"):
        if not any(row.get("metric") == metric for row in chosen):
            continue
        said: Row = {"metric": METRICS[metric], "named": [], "rest": {}, "refused": ""}
        said["what"] = "Difference"
        found.append(said)
        try:
            pairs = statistics.compare(statistics.select(chosen, metric, on))
        except ValueError as error:
            said["refused"] = str(error)
            continue
        labels = {row["run.optimizer"]: row["label"] for row in best}
        for verdict in pairs:
            a, b = labels.get(verdict.a, verdict.a), labels.get(verdict.b, verdict.b)
            if verdict.winner is None:
                said["rest"].setdefault(verdict.reason, []).append(f"{a} and {b}")
                continue
            said["what"] = (
                "Ratio, second to first" if verdict.ratio else "Difference, second − first"
            )
            said["named"].append(_named(verdict, labels))
    return found


def trouble(rows: Sequence[Row]) -> dict[str, Any]:
    """What diverged, failed or did not converge: how many, and which."""
    lines = []
    runs = set()
    counts = dict.fromkeys(("diverged", "failed", "unconverged"), 0)
    for row in rows:
        status = row.get("status")
        if status not in ("diverged", "failed"):
            status = "unconverged" if row.get("converged") is False else None
        if status:
            counts[status] += 1
            runs.add(row.get("run"))
            what = f"{row.get('metric')} on {statistics.measured_on(row) or 'unknown data'}"
            who = (str(row.get("run.optimizer")), _setting(row), str(row.get("run.seed")))
            lines.append((*who, what, status, str(row.get("message") or "")))
    more = max(0, len(lines) - _MOST)
    return {"counts": counts, "runs": len(runs), "lines": lines[:_MOST], "more": more}


def estimates(rows: Sequence[Row]) -> list[dict[str, str]]:
    """For each metric and data set how its numbers were got, and how large their errors are."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.get("metric") in TRUST and row.get("value") is not None and not row.get("block"):
            key = (str(row["metric"]), str(statistics.measured_on(row)))
            groups.setdefault(key, []).append(row)
    return [
        {
            "metric": METRICS[metric],
            "on": on,
            "method": _listed(_values(of, "method")),
            "examples": _listed(_values(of, "examples")),
            "converged": f"{sum(r.get('converged') is not False for r in of)} of {len(of)}",
            "error": _errors(of),
            "trust": TRUST[metric],
        }
        for (metric, on), of in sorted(groups.items())
    ]


def provenance(rows: Sequence[Row]) -> list[tuple[str, str, bool]]:
    """Column, its values, and whether all rows agree in it."""
    wanted = [*MEASURED_ALIKE, "batch_size", "device", "curvature", "torch", "versions"]
    wanted += sorted({n for row in rows for n in row if n.startswith("run.")} - set(SETTING))
    found = []
    for name in dict.fromkeys(wanted):
        values = _values(rows, name)
        if values and name not in ("run.optimizer", "run.seed"):
            found.append((name, _listed(values), len(values) == 1))
    return found


def _results(rows: Sequence[Row], metric: str, on: str) -> dict[Any, dict[str, str]]:
    """By optimizer; all on one scale, as they are compared and drawn."""
    try:
        means = statistics.summarize(statistics.select(rows, metric, on), by=("run.optimizer",))
    except ValueError:
        return {}
    return {mean["run.optimizer"]: _result(mean, metric) for mean in means}


def _result(mean: Row, metric: str) -> dict[str, str]:
    bounds = [number(mean[end], metric) for end in ("low", "high")]
    interval = f"[{bounds[0]}, {bounds[1]}]" if mean["low"] is not None else ""
    lost = mean["diverged"] + mean["failed"]
    notes = [f"n = {mean['n']}"]
    notes += [f"{lost} lost"] if lost else []
    notes += [f"{mean['unconverged']} unconverged"] if mean["unconverged"] else []
    return {"value": number(mean["value"], metric), "interval": interval, "note": ", ".join(notes)}


def _named(verdict: statistics.Verdict, labels: Mapping[Any, str]) -> tuple[str, ...]:
    scale = 100 if verdict.metric == "accuracy" else 1
    unit = " points" if verdict.metric == "accuracy" else ""
    value, low, high = (short(scale * x, 3) for x in verdict.of_loser)
    winner, loser = (labels.get(name, str(name)) for name in (verdict.winner, verdict.loser))
    finding = f"{winner} is {verdict.reason} than {loser}"
    return finding, value + unit, f"{low} to {high}", short(verdict.p or 0.0, 2)


def _label(name: Any, among: Sequence[Any]) -> str:
    return look(name, among)[0].replace(r"\$", "$")


def _setting(row: Row) -> str:
    parts = []
    for name in SETTING:
        value = row.get(name)
        adaptive = str(row.get("run.optimizer")).startswith("sa-")
        if value in (None, "") or (name == "run.sa_variant" and not adaptive):
            continue
        parts.append(f"{_NAMES[name]} {settings([value])[0]}" if name in _NAMES else str(value))
    return ", ".join(parts)


def _errors(rows: Sequence[Row]) -> str:
    parts = []
    for name, title in (
        ("standard_error", "standard error"),
        ("residual", "residual"),
        ("sampling_error", "sampling error"),
    ):
        shares = [
            abs(row[name] / row["value"])
            for row in rows
            if row.get(name) is not None and row["value"]
        ]
        if shares:
            middle, worst = stdlib_statistics.median(shares), max(shares)
            parts.append(f"{title} {short(100 * middle)} % (at worst {short(100 * worst)} %)")
    return ", ".join(parts) or "–"


def _values(rows: Iterable[Row], name: str) -> list[Any]:
    return sorted({row.get(name) for row in rows} - {None, ""}, key=_order)


def _listed(values: Sequence[Any], most: int = 12) -> str:
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        texts = settings(values)
    else:
        texts = [str(value) for value in values]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def _order(value: Any) -> tuple[bool, float, str]:
    is_number = isinstance(value, int | float)
    return (not is_number, float(value) if is_number else 0.0, str(value))
