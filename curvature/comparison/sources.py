"""Where the networks of a comparison come from: checkpoints, run folders and files of rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curvature.runs.checkpoint import Checkpoint, load_checkpoint
from curvature.runs.config import AnalysisConfig
from curvature.runs.files import read_json
from curvature.runs.folder import RunFolder
from curvature.runs.rows import Row
from curvature.runs.table import read_csv, read_rows, read_table
from curvature.statistics import is_tracked, measured_on, select
from curvature.statistics.bounds import EIGENVALUES
from curvature.statistics.provenance import portable

READERS: dict[str, Callable[[Path], list[Row]]] = {".jsonl": read_rows, ".csv": read_csv}
CURVATURES = ("trace", *EIGENVALUES)

Source = str | os.PathLike[str] | Checkpoint | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Network:
    """What is compared: to be loaded and measured, or with rows that are there already."""

    path: str  # as given; of a file of rows with several networks, as its rows say
    load: Callable[[], Checkpoint] | None = None
    rows: tuple[Row, ...] = ()


def networks_in(source: Source, *, weights: str = "auto") -> list[Network]:
    """The networks of one source: a file of rows may have several."""
    if isinstance(source, Checkpoint):
        return [Network(source.hash, load=lambda: source)]
    if not isinstance(source, str | os.PathLike):
        return _networks_of_rows([dict(row) for row in source], "rows")
    path = Path(source)
    if path.suffix.lower() in READERS:
        return _networks_of_rows(READERS[path.suffix.lower()](path), str(source))
    if path.is_dir():
        return [_network_of_folder(path, str(source), weights)]
    return [Network(str(source), load=lambda: load_checkpoint(path, weights=weights))]


def is_run_folder(path: Path) -> bool:
    """A folder of one run: its config.json is ours, not that of a saved model."""
    file = RunFolder(path).config_file
    return file.is_file() and "config" in read_json(file, "config of a run")


def has_networks(path: Path) -> bool:
    """Whether ``path`` stands for single networks; else it is a study, of runs in many settings.

    Every row that `curv analyze` and `curv compare` write names its checkpoint; the rows of
    accuracy that training writes do not, and they are in the table of every study.
    """
    if path.is_dir():
        return RunFolder(path).config_file.is_file()
    read = READERS.get(path.suffix.lower())
    if read is None or not path.is_file():
        return True
    rows = read(path)
    return bool(rows) and all(row.get("name") or row.get("checkpoint") for row in rows)


def chosen_rows(
    network: Network, config: AnalysisConfig, *, analysis: str | None = None
) -> list[Row]:
    """One row for each metric that was measured, at the last step, on what ``config`` names."""
    rows = [
        row
        for row in network.rows
        if row.get("block") is None and row.get("probe") is None and not row.get("index")
    ]
    rows = _on_one_set(rows, config, network.path)
    found: dict[str, Row] = {}
    beside: list[Row] = []  # measured with the first of the curvatures
    for metric in dict.fromkeys((*CURVATURES, *(str(row.get("metric")) for row in rows))):
        of = [row for row in beside if row.get("metric") == metric] or rows
        if any(row.get("metric") == metric for row in of):
            on = str(measured_on(next(row for row in of if row.get("metric") == metric)))
            found[metric] = select(of, metric, on, analysis=analysis)[0]
            mine = found[metric].get("analysis")
            beside = beside or [row for row in rows if row.get("analysis") == mine]
    return list(found.values())


def _on_one_set(rows: list[Row], config: AnalysisConfig, path: str) -> list[Row]:
    there = sorted({str(measured_on(row)) for row in rows})
    if config.data is not None:
        rows = [r for r in rows if portable(str(r.get("data"))) == portable(config.data)]
    if len({measured_on(row) for row in rows}) > 1:
        rows = [row for row in rows if measured_on(row) == config.split] or [
            row for row in rows if row.get("split") == config.split and config.data is not None
        ]
    if not rows:
        raise ValueError(
            f"{path} has no rows on {config.data or config.split}; it has {', '.join(there)}: "
            "choose by --data and --split."
        )
    return rows


def _network_of_folder(path: Path, given: str, weights: str) -> Network:
    """Its rows, where curvature was measured there; else its checkpoint, or a saved model."""
    if not is_run_folder(path):
        return Network(given, load=lambda: load_checkpoint(path, weights=weights))
    rows = [row for row in read_table(path) if not is_tracked(row)]
    if any(row.get("metric") in CURVATURES for row in rows):
        return Network(given, rows=tuple(rows))
    file = RunFolder(path).checkpoint
    return Network(given, load=lambda: load_checkpoint(file, weights=weights))


def _networks_of_rows(rows: Iterable[Row], given: str) -> list[Network]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        own = row.get("name") or row.get("checkpoint") or row.get("run")
        if own is None:
            raise ValueError(f"{given}: a row says neither `checkpoint` nor `run`, so whose is it?")
        groups.setdefault(str(own), []).append(row)
    if not groups:
        raise ValueError(f"{given} holds no rows: nothing was measured there yet.")
    alone = len(groups) == 1 and not any("name" in row for row in groups[next(iter(groups))])
    return [Network(given if alone else own, rows=tuple(of)) for own, of in groups.items()]
