"""Who may import whom: the table of rooms, read from the imports themselves."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FREE: set[str] = set()  # imports nothing of ours but what is open
OPEN = {"names", "display"}  # to anyone
ARROWS = {
    "linalg": FREE,
    "losses": FREE,
    "derivatives": FREE,
    "models": FREE,
    "datasets": FREE,
    "optimizers": FREE,
    "runs": FREE,
    "statistics": FREE,
    "plots": FREE,
    "names": FREE,
    "display": FREE,
    "_version": FREE,
    "devices": FREE,
    "empirical_risk": {"losses", "derivatives"},
    "operators": {"empirical_risk", "derivatives", "linalg", "losses"},
    "crosscheck": {"empirical_risk", "linalg"},
    "measures": {"operators", "linalg", "losses", "empirical_risk", "derivatives"},
    "analysis": {
        "measures",
        "operators",
        "linalg",
        "crosscheck",
        "models",
        "datasets",
        "losses",
        "empirical_risk",
        "runs",
        "devices",
        "_version",
    },
    "training": {
        "models",
        "datasets",
        "optimizers",
        "losses",
        "measures",
        "empirical_risk",
        "runs",
        "devices",
        "_version",
    },
    "tracking": {"measures", "operators", "empirical_risk", "optimizers", "runs", "_version"},
    "integrations": {"tracking"},
    "sweep": {"training", "analysis", "runs", "devices"},
    "comparison": {"analysis", "models", "empirical_risk", "runs", "statistics", "plots"},
    "report": {"plots", "statistics"},
}
FILES = sorted((ROOT / "curvature").rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "curvature").with_suffix("").parts[0]


def rooms_imported(path: Path) -> set[str]:
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path}: relative import")
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "curvature":
            modules = [f"curvature.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module]
        rooms |= {m.split(".")[1] for m in modules if m.startswith("curvature.")}
    return rooms


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_what_its_arrows_allow(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    assert room in ARROWS, f"`{room}` is a new room: give it a line in ARROWS"
    assert rooms_imported(path) <= ARROWS[room] | {room, *OPEN}


def test_importing_curvature_loads_no_heavy_package() -> None:
    code = (
        "import sys, curvature;"
        "heavy = {'click', 'pandas', 'matplotlib', 'sklearn', 'pyhessian', 'rich', 'scipy'};"
        "print(*heavy & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == []


def test_a_folded_product_doesn_t_load_the_compiler() -> None:
    code = """
import sys, torch, curvature
from curvature.operators import ways
ways.WORTH_IT, ways.AS_FAST = 1, float("inf")
model = torch.nn.Sequential(
    torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.Linear(8, 2)
)
H = curvature.hessian(model, "cross_entropy", (torch.randn(9, 1, 4, 4), torch.arange(9) % 2))
H @ torch.ones(H.size)
assert "1 BatchNorms folded" in H.method, H.method
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == ["False"]
