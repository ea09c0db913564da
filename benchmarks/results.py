"""Measured parts as JSON files in a folder, so that a run can be stopped, resumed and redone."""

import json
import os
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any


class Results:
    """``part`` measures what isn't there yet; parts whose key fits ``again`` are redone."""

    def __init__(self, folder: Path, again: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self._again = again
        self._done: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def part(self, key: str, compute: Callable[[], Any]) -> Any:
        path = self._path(key)
        redo = key not in self._done and any(fnmatch(key, pattern) for pattern in self._again)
        if path.exists() and not redo:
            return json.loads(path.read_text())
        found = compute()
        self._done.add(key)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(found, indent=1) + "\n")
        os.replace(partial, path)
        print(f"{key}: {json.dumps(found)[:300]}", flush=True)
        return found

    def get(self, key: str) -> Any:
        """What was measured, or None."""
        path = self._path(key)
        return json.loads(path.read_text()) if path.exists() else None

    def _path(self, key: str) -> Path:
        return self.folder / (key.replace("/", "--") + ".json")
