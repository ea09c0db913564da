"""Several networks measured under one protocol, and what may be said of their differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curvature.comparison.measuring import MEASURED, Look, Report, look_at, measure
from curvature.comparison.naming import distinguishing, named
from curvature.comparison.sources import Network, Source, chosen_rows, networks_in
from curvature.runs.config import AnalysisConfig
from curvature.runs.rows import Row
from curvature.runs.table import Table
from curvature.statistics.bounds import bounds
from curvature.statistics.networks import Difference, differences
from curvature.statistics.protocol import refuse_other_protocols

METRICS = ("accuracy", "trace", "eigmax")


@dataclass(frozen=True)
class Comparison:
    """``rows`` with a ``name`` and 95 % intervals; ``differences``, each against one network.

    ``low`` and ``high`` are the estimate's own interval, ``wide_low`` and ``wide_high`` that of
    other images like those measured.
    """

    names: tuple[str, ...]
    rows: Table
    differences: tuple[Difference, ...]

    def figure(self, **options: Any) -> Any:
        """A matplotlib Figure with a panel for each metric; options of `plots.networks`."""
        from curvature.plots import networks

        return networks(self.rows, **options)

    def __str__(self) -> str:
        return "\n".join(map(str, self.differences))


def compare(
    sources: Sequence[Source] | Mapping[str, Source],
    config: AnalysisConfig | None = None,
    *,
    labels: Sequence[str] = (),
    metrics: Sequence[str] = METRICS,
    against: str | None = None,
    weights: str = "auto",
    analysis: str | None = None,
    trust: bool = False,
    announce: Callable[[str], None] | None = None,
    report: Report | None = None,
    keep: Callable[[Table], object] | None = None,
) -> Comparison:
    """Measure checkpoints as ``config`` says; take run folders and files of rows as they are.

    ``sources`` may be name → source. ``labels``: NAME=PATH, or one each. The ``metrics`` are told
    apart ``against`` one network, the first by default; ``analysis`` chooses among a run's rows.
    ``keep`` is given all rows so far after each network that was measured.

    Raises:
        ValueError: naming the field in which two networks were measured differently.
    """
    config = config or AnalysisConfig()
    networks = _gathered(sources, labels, weights)
    if against is not None and against not in networks:
        raise ValueError(f"There is no network {against}; there are {', '.join(networks)}.")
    rows: dict[str, list[Row]] = {
        name: [{**row, "name": name} for row in chosen_rows(n, config, analysis=analysis)]
        for name, n in networks.items()
        if n.load is None
    }
    there = [row for of in rows.values() for row in of]
    _refuse_unknown(metrics, there)
    refuse_other_protocols(there)
    looks = look_at(networks, there, config, trust=trust)
    _refuse_alike(rows, looks)
    say = announce or (lambda line: None)
    for name, look in looks.items():
        rows[name] = measure(
            name, networks[name], look, config, trust=trust, announce=say, report=report
        )
        if keep is not None:
            keep(_as_table(networks, rows))
    table = _as_table(networks, rows)
    told = [
        row
        for metric in metrics
        for row in table
        if row.get("metric") == metric and not row.get("index")
    ]
    if not any(row.get("value") is not None for row in told):
        raise ValueError(f"None of the networks has a value of {', '.join(metrics)}.")
    hits = {name: look.hits for name, look in looks.items() if look.hits is not None}
    return Comparison(tuple(networks), table, tuple(differences(told, against=against, hits=hits)))


def _refuse_unknown(metrics: Sequence[str], there: Sequence[Row]) -> None:
    known = list(dict.fromkeys((*MEASURED, *(str(row.get("metric")) for row in there))))
    for metric in metrics:
        if metric not in known:
            raise ValueError(f"No metric `{metric}` is measured; there are {', '.join(known)}.")


def _gathered(
    sources: Sequence[Source] | Mapping[str, Source], labels: Sequence[str], weights: str
) -> dict[str, Network]:
    """Name → network."""
    if isinstance(sources, Mapping):
        found = {name: _only(networks_in(s, weights=weights)) for name, s in sources.items()}
    else:
        several = [network for s in sources for network in networks_in(s, weights=weights)]
        paths = [network.path for network in several]
        twice = next((path for path in paths if paths.count(path) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} was given twice.")
        names = dict(zip(paths, distinguishing(paths), strict=True)) | named(paths, labels)
        found = {names[network.path]: network for network in several}
        if len(found) < len(several):
            raise ValueError("A label is the name of another network: label both.")
    if len(found) < 2:
        raise ValueError(f"A comparison needs two networks, got {len(found)}.")
    return found


def _only(networks: list[Network]) -> Network:
    if len(networks) != 1:
        raise ValueError(f"One name for {len(networks)} networks: give their rows apart.")
    return networks[0]


def _as_table(networks: Mapping[str, Network], rows: Mapping[str, list[Row]]) -> Table:
    """Those that are there, in the networks' order, with their intervals."""
    copies = {name: [dict(row) for row in of] for name, of in rows.items()}
    _name_runs_apart(copies)
    there = (row for name in networks for row in copies.get(name, ()))
    return Table({**row, **vars(bounds(row))} for row in there)


def _name_runs_apart(rows: Mapping[str, list[Row]]) -> None:
    """Networks that say they are one run at one step are called by their weights instead."""
    owners: dict[Any, set[str]] = {}
    for name, of in rows.items():
        for row in of:
            owners.setdefault((row.get("run"), row.get("step")), set()).add(name)
    for row in (row for of in rows.values() for row in of):
        shared = len(owners.get((row.get("run"), row.get("step")), ())) > 1
        if shared and row.get("checkpoint_hash"):
            row["run"] = row["checkpoint_hash"]


def _refuse_alike(rows: Mapping[str, Sequence[Row]], looks: Mapping[str, Look]) -> None:
    """The same weights twice are no two networks."""
    hashes = {
        name: next((row["checkpoint_hash"] for row in of if row.get("checkpoint_hash")), None)
        for name, of in rows.items()
    }
    hashes |= {name: look.hash for name, look in looks.items()}
    seen: dict[str, str] = {}
    for name, hash in hashes.items():
        if hash is not None and seen.setdefault(hash, name) != name:
            raise ValueError(f"{seen[hash]} and {name} hold the same weights ({hash}).")
