"""The contract of a row: what its columns are, and what its values may be.

A row is a flat dict: one number with all that is needed to read it. An absent column is None.

    run, analysis, metric, step, block, probe, index   the key, unique in a table (`KEY`)
    value, standard_error, sampling_error, residual    the number; errors of probes and of images
    low, high, n                                       of a statistic over n rows
    name, low, high, wide_low, wide_high               of a comparison: whose it is, the estimate's
                                                       interval, and that over other examples
    passes, seconds, method, converged                 what it cost, how it was got
    products, products_error                           how products with the Hessian were formed;
                                                       of differences their error, relative to ‖H‖
    status, message                                    ok, diverged (value is None) or failed; why
    on                      test, val, train of the run's own data; else the other data's name,
                            with the split where that isn't test
    pooled_over             kinds of examples measured as one: `corruption, severity`
    checkpoint (its path), checkpoint_hash, model, parameters, data, data_name, data_hash, split,
    examples, loss, reduction, batchnorm, weight_decay_counted, batch_size, device, dtype, tf32,
    seed, curvature, torch (their versions)            provenance
    run.optimizer, run.lr, run.weight_decay, …         the fields of the RunConfig, prefixed
"""

import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

from curvature import names
from curvature.runs.messages import printable

Row = dict[str, Any]

TRACKING = "tracking"  # the analysis of rows that are measured while a run goes on
KEY = ("run", "analysis", "metric", "step", "block", "probe", "index")
NUMBERS = (
    *("value", "standard_error", "sampling_error", "residual", "products_error"),
    *("low", "high", "n"),
)
ERRORS = ("standard_error", "sampling_error", "residual", "products_error")  # none below 0
COUNTS = ("step", "passes", "seconds", "parameters", "examples", "batch_size")
SETTINGS = ("run.lr", "run.weight_decay", "run.rho", "run.seed")
COLUMNS = (
    *KEY,
    *NUMBERS,
    *(
        "passes",
        "seconds",
        "method",
        "products",
        "converged",
        "status",
        "message",
    ),
    *("checkpoint", "checkpoint_hash", "model", "parameters", "data", "data_name", "data_hash"),
    *(
        "split",
        "on",
        "pooled_over",
        "examples",
        "loss",
        "reduction",
        "batchnorm",
        "weight_decay_counted",
    ),
    *("batch_size", "device", "dtype", "tf32", "seed", "curvature", "torch"),
)


def measured_row(metric: str, **fields: Any) -> Row:
    """A row of one number with every column of a measurement, the absent ones None."""
    row: Row = {"metric": metric, "block": None, "probe": None, "index": 0}
    row |= dict.fromkeys(("value", "standard_error", "sampling_error", "residual", "passes"))
    row |= dict.fromkeys(("seconds", "method", "products", "products_error"))
    return {**row, "converged": True, "status": "ok", "message": None, **fields}


def columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The columns that the rows have: `COLUMNS` in their order, then the others by name."""
    there = {name for row in rows for name in row}
    return [name for name in COLUMNS if name in there] + sorted(there - set(COLUMNS))


def plain_row(row: Mapping[str, Any]) -> Row:
    """A row in JSON's types; only finite numbers, since JSON has no others."""
    plain: Row = {}
    for name, value in row.items():
        if value is None or isinstance(value, bool | str):
            plain[name] = value
        elif isinstance(value, numbers.Integral):
            plain[name] = int(value)
        elif isinstance(value, numbers.Real):
            plain[name] = float(value) if math.isfinite(value) else None
        else:
            raise TypeError(f"A row holds numbers and text; `{name}` is a {type(value).__name__}.")
    value = row.get("value")
    if value is not None and plain["value"] is None:
        plain["message"] = plain.get("message") or f"the value is {float(value)}"
        if plain.get("status") in (None, "ok"):
            plain["status"] = "diverged"
    return plain


def refuse_text_for_numbers(row: Mapping[str, Any], where: str) -> None:
    """Of a row that was read: what is calculated with must be finite numbers, or None."""
    for name in (*NUMBERS, *COUNTS, *SETTINGS):
        value = row.get(name)
        if value is not None and not _is_number(value):
            found = printable(value) if isinstance(value, str) else printable(repr(value))
            raise ValueError(f"{where}: `{name}` is `{found}`, not a number; leave it empty.")
        if name in ERRORS and value is not None and value < 0:
            raise ValueError(f"{where}: `{name}` is {value:g}, and no error is below 0.")


def measured_on(data: str, split: str, own: str | None) -> str:
    """What a row's `on` says: of the run's own data the split, else the data, without its place.

    >>> measured_on("cifar10:/data", "test", "cifar10:/elsewhere")
    'test'
    >>> measured_on("cifar10c:/data,severity=1", "test", "cifar10:/data")
    'cifar10c:severity=1'
    >>> measured_on("cifar10:/data", "train", None)
    'cifar10 train'
    """
    name = _portable(data)
    if own is not None and name == _portable(own):
        return split
    return name if split == "test" else f"{name} {split}"


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # JSON's whole numbers may be beyond any float
        return False


def _portable(spec: str) -> str:
    return names.parse(spec, names.TAKE_A_DIRECTORY).portable
