"""Peak memory of a product on one micro-batch beside a training step's, each in its own process."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from peak import PIECES
from results import Results

_SCRIPT = Path(__file__).resolve().parents[1] / "peak.py"
MODELS = ("resnet20", "vgg19", "vit_study")
QUICK = ("resnet20:width=2",)
_IMAGES = 128
# glibc otherwise keeps what was freed in a heap with holes, more or less of it from run to run
_ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": "131072"}


def measure(tools: dict[str, ModuleType], results: Results, *, quick: bool) -> None:
    if not Path("/proc/self/clear_refs").exists():
        print("Memory is left out: it is read from Linux's /proc.")
        return
    missing = {piece for piece in PIECES if piece in ("pyhessian", "curvlinops", "eigenthings")}
    pieces = [piece for piece in PIECES if piece not in missing - set(tools)]
    for model in QUICK if quick else MODELS:
        for piece in pieces if not quick else ("training step", "product"):
            results.part(
                f"memory/{model}/{piece}", partial(_peak, model, piece, 16 if quick else _IMAGES)
            )


def _peak(model: str, piece: str, images: int) -> dict[str, Any]:
    command = [sys.executable, str(_SCRIPT), model, piece, "--images", str(images)]
    env = os.environ | _ALLOCATION
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1]) | {"images": images}
