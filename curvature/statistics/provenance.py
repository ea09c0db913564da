"""Which rows may stand side by side: those measured alike, of runs alike but for one thing."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from curvature import names

MEASURED_ALIKE = (
    *("split", "data", "data_hash", "examples", "model", "parameters", "params", "loss"),
    *("reduction", "batchnorm", "dtype", "tf32", "method", "block", "weight_decay_counted"),
)
SETTING = (  # what is chosen for an optimizer
    *("run.lr", "run.weight_decay", "run.rho", "run.sa_variant", "run.optimizer_options"),
)

_ONE_PER_RUN = ("run.seed", "run.compile")  # the latter changes rounding, as a device does


def refuse_different(
    rows: Iterable[Mapping[str, Any]], *, free: Sequence[str] = (), what: str = "rows"
) -> None:
    """Refuse rows that were measured differently, or of runs that differ in more than ``free``.

    Raises:
        ValueError: naming the first column in which two rows differ, and both values.
    """
    rows = [row for row in rows if row.get("value") is not None]
    of_runs = sorted({name for row in rows for name in row if name.startswith("run.")})
    for name in (*MEASURED_ALIKE, *of_runs):
        if name in free or name in _ONE_PER_RUN:
            continue
        values = {key for row in rows if (key := _key(name, row)) != _ANY}
        if len(values) > 1:
            found = ", ".join(sorted(map(shown, values))[:4])
            raise ValueError(
                f"The {what} differ in `{name}` ({found}), so their numbers can't be compared: "
                f"choose one with {name}=VALUE, or measure all alike."
            )


_ANY = ("any",)


def _key(name: str, row: Mapping[str, Any]) -> Any:
    value = row.get(name)
    if name == "weight_decay_counted":
        return _ANY if not row.get("run.weight_decay") else bool(value)
    if name in ("data", "run.data") and value is not None:
        return portable(str(value))
    if name == "method" and str(value).startswith("split:"):
        return "split"  # how its parts are got hangs on the network: where layers are dead, say
    return value


def portable(spec: str) -> str:
    """Without the place of known data, which may lie elsewhere on another machine."""
    try:
        return names.parse(spec, names.TAKE_A_DIRECTORY).portable
    except ValueError:
        return spec  # a data set's name in words


def shown(value: Any) -> str:
    """A value in a message: short, on one line."""
    text = "nothing said" if value is None else str(value)
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 40 else text[:39] + "…"
