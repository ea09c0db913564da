"""One row per run: a metric, measured on one set of data, at the run's last step.

What a row was measured on: `train`, `val` or `test` is that split of the run's own data; any
other data set is called by its name (`cifar10c`) or its full spec (`cifar10c:fog,severity=3`).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from curvature import names
from curvature.statistics.along import is_tracked

Row = dict[str, Any]

SPLITS = ("train", "val", "test")

_TIMES = ("seconds", "device", "curvature", "torch", "checkpoint", "file", "message", "analysis")


def measured_on(row: Mapping[str, Any]) -> str | None:
    """What ``on`` finds this row by: a split of the run's own data, or another data set's name."""
    split, there = row.get("split"), _data_names(row)
    own = _base(row["run.data"]) if row.get("run.data") else None
    if split is None:
        return there[0] if there else None
    if own is None or not there or own in there:
        return str(split)
    return there[0] if split == "test" else None


def select(
    rows: Iterable[Mapping[str, Any]],
    metric: str,
    on: str = "test",
    *,
    block: str | None = None,
    analysis: str | None = None,
) -> list[Row]:
    """The row of ``metric`` on ``on`` of each run, at its last step, on the most examples.

    What was tracked while it trained, on a budget, is left out unless ``analysis`` names it.

    Raises:
        ValueError: if there is none, or if two rows of one run are left and differ; the message
            names the column that they differ in.
    """
    table: list[Row] = [dict(row) for row in rows]
    of_metric = [row for row in table if row.get("metric") == metric]
    found = [
        row
        for row in of_metric
        if _is_on(row, on)
        and row.get("block") == block
        and not row.get("index")
        and row.get("probe") is None
        and (row.get("analysis") == analysis or (analysis is None and not is_tracked(row)))
    ]
    last = _last_steps(table)
    found = [row for row in found if row.get("step") in (None, last.get(run_of(row)))]
    if not found:
        raise ValueError(_nothing(table, of_metric, metric, on, block, analysis))
    runs: dict[str, list[Row]] = {}
    for row in found:
        runs.setdefault(run_of(row), []).append(row)
    return [{**_the_one(of, metric, on), "run": run, "on": on} for run, of in runs.items()]


def where(rows: Iterable[Mapping[str, Any]], conditions: Sequence[str]) -> list[Row]:
    """The rows that fulfil every ``column=value``; numbers are compared as numbers.

    >>> where([{"run.rho": 0.05}, {"run.rho": 0.1}], ["run.rho=5e-2"])
    [{'run.rho': 0.05}]
    """
    kept = [dict(row) for row in rows]
    for condition in conditions:
        column, equals, wanted = condition.partition("=")
        if not equals or not column:
            raise ValueError(f"`{condition}` is no condition; write COLUMN=VALUE.")
        values = {_text(row.get(column)) for row in kept}
        kept = [row for row in kept if _equal(row.get(column), wanted)]
        if not kept:
            raise ValueError(
                f"No row has {column} = {wanted}; there are {', '.join(sorted(values)[:8])}."
            )
    return kept


def run_of(row: Mapping[str, Any]) -> str:
    """The run's id; where a table has none, all that is said of the run."""
    own = sorted((name, value) for name, value in row.items() if name.startswith("run."))
    return row.get("run") or ", ".join(f"{name} {value}" for name, value in own)


def _is_on(row: Mapping[str, Any], on: str) -> bool:
    found = measured_on(row)
    if found == on or (found is not None and found == f"{on}-style"):
        return True
    if on in SPLITS or row.get("split") != "test":
        return False
    return on in _data_names(row) or _portable(on) == _portable(row.get("data"))


def _data_names(row: Mapping[str, Any]) -> list[str]:
    found = [_base(row[name]) for name in ("data_name", "data") if row.get(name)]
    return list(dict.fromkeys(found))


def _base(text: Any) -> str:
    """`cifar10` of "cifar10:DIR,augment=none" and of "cifar10 (2,000 of 50,000 train images)"."""
    plain = str(text).partition(" (")[0]
    try:
        return names.parse(plain, names.TAKE_A_DIRECTORY).name
    except ValueError:
        return plain


def _portable(text: Any) -> str | None:
    try:
        return names.parse(str(text), names.TAKE_A_DIRECTORY).portable
    except ValueError:
        return None if text is None else str(text)


def _last_steps(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """An earlier checkpoint's curvature must not stand beside the last one's accuracy."""
    last: dict[str, Any] = {}
    for row in rows:
        step = row.get("step")
        if step is not None:
            last[run_of(row)] = max(step, last.get(run_of(row), step))
    return last


def _the_one(several: list[Row], metric: str, on: str) -> Row:
    most = max(row.get("examples") or 0 for row in several)
    rows = [row for row in several if (row.get("examples") or 0) == most]
    first = rows[0]
    for other in rows[1:]:
        columns = sorted((set(first) | set(other)) - set(_TIMES))
        differing = [name for name in columns if first.get(name) != other.get(name)]
        if set(differing) - {"seed"} and not _same_number(first, other):
            name = next((n for n in differing if n != "value"), "value")
            raise ValueError(
                f"Run {first.get('run')} has several rows of {metric} on {on}, which differ in "
                f"`{name}` ({_text(first.get(name))}, {_text(other.get(name))}): choose one by "
                f"`analysis` ({_text(first.get('analysis'))} or {_text(other.get('analysis'))})."
            )
    return first


def _same_number(a: Row, b: Row) -> bool:
    """An exact measurement that two analyses of the same weights and data made beside others."""
    same = ("method", "data_hash", "checkpoint_hash", "split")
    if a.get("method") != "exact" or any(a.get(name) != b.get(name) for name in same):
        return False
    x, y = a.get("value"), b.get("value")
    return x is not None and y is not None and abs(x - y) <= 1e-4 * max(abs(x), abs(y))


def _nothing(
    rows: list[Row],
    of_metric: list[Row],
    metric: str,
    on: str,
    block: str | None,
    analysis: str | None,
) -> str:
    if not rows:
        return f"There are no rows, so no {metric} on {on}."
    if not of_metric:
        there = sorted({str(row.get("metric")) for row in rows})
        return f"No row is of the metric `{metric}`; there are {', '.join(there[:12])}."
    there = sorted({measured_on(row) or "(no split or data said)" for row in of_metric})
    asked = f" in block {block}" if block else ""
    asked += f" by analysis {analysis}" if analysis else ""
    return (
        f"No row of {metric} was measured on `{on}`{asked} at a run's last step; "
        f"there is {metric} on {', '.join(there[:12])}."
    )


def _equal(value: Any, wanted: str) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value) == float(wanted)
        except ValueError:
            return False
    return _text(value) == wanted or str(value).lower() == wanted.lower()


def _text(value: Any) -> str:
    text = "nothing" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 60 else text[:59] + "…"
