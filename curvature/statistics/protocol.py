"""Which networks' numbers may stand side by side: those measured in the same way, on the same."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from curvature.statistics.bounds import EIGENVALUES
from curvature.statistics.provenance import portable, shown

ON = ("split", "examples", "data", "data_hash", "batchnorm", "dtype", "tf32", "block")
OF_THE_LOSS = ("loss", "reduction", "params")

_UNSAID = {"tf32": False}
_NOT_OF_THE_LOSS = ("accuracy", "calibration_error")


def refuse_other_protocols(rows: Iterable[Mapping[str, Any]]) -> None:
    """Refuse numbers of networks, each row with its ``name``, that were measured differently.

    The networks themselves, probes' seeds and what only costs time are free.

    Raises:
        ValueError: naming the first field that differs, two networks and both values.
    """
    first: dict[Any, Mapping[str, Any]] = {}
    for row in rows:
        if row.get("value") is None:
            continue
        metric = row.get("metric")
        reference = first.setdefault(metric, row)
        field = differing(reference, row, protocol_of(metric))
        if field:
            a, b = (f"{shown(each.get(field))} for {each.get('name')}" for each in (reference, row))
            raise ValueError(
                f"{metric} was measured differently: `{field}` is {a}, but {b}. {_remedy(field)}"
            )


def protocol_of(metric: Any) -> tuple[str, ...]:
    """The fields that a metric's meaning depends on."""
    if metric in _NOT_OF_THE_LOSS:
        return ON
    if metric in EIGENVALUES:  # PyHessian's is the largest in magnitude, and without a residual
        return (*ON, *OF_THE_LOSS, "weight_decay_counted", "method")
    return (*ON, *OF_THE_LOSS, "weight_decay_counted")


def differing(a: Mapping[str, Any], b: Mapping[str, Any], fields: Sequence[str]) -> str | None:
    """The first of ``fields`` in which two measurements differ in meaning."""
    same_bytes = a.get("data_hash") is not None and a.get("data_hash") == b.get("data_hash")
    for name in fields:
        if name == "data" and same_bytes:
            continue  # under another name
        if _meaning(name, a) != _meaning(name, b):
            return name
    return None


def _meaning(name: str, row: Mapping[str, Any]) -> Any:
    value = row.get(name)
    if name == "weight_decay_counted":
        return bool(value)
    if name == "method":
        return "pyhessian" if value == "pyhessian" else None
    if name == "data" and value is not None:
        return portable(str(value))
    return _UNSAID.get(name) if value is None else value


def _remedy(field: str) -> str:
    if field in ("data", "data_hash", "split", "examples"):
        return "Measure all on the same --data, --split, --examples and --seed."
    if field == "loss":
        return "Give all the same --loss."
    return "Measure all alike."
