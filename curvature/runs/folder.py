"""The folder of one run: runs/<id>/ with its config, checkpoints, history and rows."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curvature.runs.config import AnalysisConfig, RunConfig
from curvature.runs.files import read_json, write_json
from curvature.runs.messages import printable
from curvature.runs.table import HISTORY

STATUSES = ("new", "running", "interrupted", "done", "diverged", "failed")
FINISHED = ("done", "diverged")
OWN_PARTS = ("val", "test")  # of the run's data, to evaluate on

_EPOCH = re.compile(r"epoch-(\d+)\.pt")


@dataclass(frozen=True)
class RunFolder:
    """Names the files of a run; nothing is made before it is written."""

    path: Path

    @classmethod
    def create(cls, root: str | os.PathLike[str], config: RunConfig) -> "RunFolder":
        """The folder ``root``/<id>, with config.json in it; an existing one is kept as it is."""
        folder = cls(Path(root) / config.id)
        if not folder.config_file.exists():
            write_json(folder.config_file, {"id": config.id, "config": config.to_dict()})
        return folder

    @property
    def config_file(self) -> Path:
        """What is trained."""
        return self.path / "config.json"

    @property
    def checkpoint(self) -> Path:
        """The newest state: what a run resumes from and, when it is done, its result."""
        return self.path / "checkpoint.pt"

    @property
    def history(self) -> Path:
        """Rows of training: loss, accuracy, step sizes."""
        return self.path / HISTORY

    @property
    def status_file(self) -> Path:
        """How far the run is."""
        return self.path / "status.json"

    def rows(self, analysis: str) -> Path:
        """The file of rows of the analysis with this id."""
        return self.path / "rows" / f"{analysis}.jsonl"

    def epoch_checkpoint(self, epoch: int) -> Path:
        """The checkpoint kept after ``epoch`` epochs."""
        return self.path / "checkpoints" / f"epoch-{epoch:04d}.pt"

    def step_checkpoint(self, step: int) -> Path:
        """The checkpoint kept after ``step`` steps, of a run that is measured in steps."""
        return self.path / "checkpoints" / f"step-{step:07d}.pt"

    def epoch_checkpoints(self) -> dict[int, Path]:
        """The checkpoints that were kept, by their epoch, in order."""
        found = {
            int(match[1]): path
            for path in (self.path / "checkpoints").glob("epoch-*.pt")
            if (match := _EPOCH.fullmatch(path.name))
        }
        return dict(sorted(found.items()))

    def config(self) -> RunConfig:
        """Read config.json; refuse one whose fields no longer belong to its id."""
        values = read_json(self.config_file, "run's config")
        if not isinstance(values.get("config"), dict):
            raise ValueError(f"{self.config_file} has no `config`: it is not of a run.")
        try:
            config: RunConfig = RunConfig.from_dict(values["config"])
        except ValueError as error:
            raise ValueError(f"{self.config_file}: {error}") from None
        if values.get("id") != config.id:
            raise ValueError(
                f"{self.config_file} was edited or is of another version: it has the id "
                f"{printable(values.get('id'))}, its fields that of {config.id}. Start a new run."
            )
        return config

    @property
    def status(self) -> str:
        """One of `STATUSES`; `running` also where the process was killed."""
        if not self.status_file.exists():
            return "new"
        status = read_json(self.status_file, "run's status").get("status")
        if status not in STATUSES:
            raise ValueError(
                f"{self.status_file}: the status is one of {', '.join(STATUSES)}, "
                f"not `{printable(status)}`."
            )
        return str(status)

    def set_status(self, status: str, **about: Any) -> None:
        """Write the status, and what else there is to say (epoch, step, message)."""
        if status not in STATUSES:
            raise ValueError(f"`status` is one of {', '.join(STATUSES)}, not `{status}`.")
        write_json(self.status_file, {"status": status, **about})


def part_name(asked: str) -> str:
    """What stands after `evaluation-` in the names of its files and analyses."""
    return asked if asked in OWN_PARTS else AnalysisConfig(data=asked, split="test").id
