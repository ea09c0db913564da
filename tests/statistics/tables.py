"""Tables as a sweep would make them, with what goes wrong in sweeps."""

import math
import random
from typing import Any

Row = dict[str, Any]

OPTIMIZERS = ("sgd", "msgd", "adam", "sam", "sa-sgd", "sa-sam")
RATES = (0.001, 0.01, 0.05, 0.1, 0.5)
DECAYS = (0.0, 1e-4, 5e-4, 1e-3)


def run_columns(optimizer: str, lr: float, decay: float, seed: int) -> Row:
    return {
        "run": f"{optimizer}-{lr:g}-{decay:g}-{seed}",
        "run.optimizer": optimizer,
        "run.lr": lr,
        "run.weight_decay": decay,
        "run.rho": 0.05 if optimizer == "sam" else None,
        "run.seed": seed,
        "run.data": "digits",
        "run.epochs": 20,
    }


def row(run: Row, metric: str, split: str, value: float | None, **fields: Any) -> Row:
    about = {"data": "digits", "data_hash": split, "examples": 100, "step": 40, "method": "exact"}
    ok = {"converged": value is not None, "status": "ok" if value is not None else "diverged"}
    key = {"analysis": f"evaluation-{split}", "metric": metric, "block": None, "index": 0}
    return {**run, **key, **about, **ok, "split": split, "value": value, **fields}


def grid(
    *,
    optimizers: tuple[str, ...] = OPTIMIZERS,
    rates: tuple[float, ...] = RATES,
    decays: tuple[float, ...] = DECAYS,
    seeds: int = 3,
    decades: float = 13.0,
    negative: float = 0.08,
    seed: int = 0,
) -> list[Row]:
    """Accuracies and curvatures over the grid; large steps diverge, curvature spans decades."""
    draw = random.Random(seed)
    rows: list[Row] = []
    for i, optimizer in enumerate(optimizers):
        for a, lr in enumerate(rates):
            for b, decay in enumerate(decays):
                for s in range(seeds):
                    run = run_columns(optimizer, lr, decay, s)
                    gone = a == len(rates) - 1 and draw.random() < 0.3 + 0.12 * i
                    rows += _rows_of_run(run, a / len(rates), b, i, gone, draw, decades, negative)
    return rows


def _rows_of_run(
    run: Row,
    a: float,
    b: int,
    i: int,
    gone: bool,
    draw: random.Random,
    decades: float,
    negative: float,
) -> list[Row]:
    good = 0.95 - 0.3 * (a - 0.5) ** 2 + 0.01 * b + 0.005 * i
    rows = [
        row(run, "accuracy", split, None if gone else good + draw.gauss(0, 0.004))
        for split in ("val", "test")
    ]
    size = 10 ** (decades * (1.2 - 2 * a + 0.1 * b - 0.05 * i) + draw.gauss(0, 0.2))
    for metric, share in (("trace", 1.0), ("eigmax", 0.1)):
        sign = -1 if metric == "trace" and draw.random() < negative else 1
        value = None if gone else sign * share * size
        estimated = {
            "analysis": "a0",
            "method": "hutchinson" if metric == "trace" else "lanczos",
            "standard_error": None if value is None else abs(value) * 0.01,
            "residual": None,
        }
        if value is not None and draw.random() < 0.06:
            estimated["converged"] = False
        rows.append(row(run, metric, "test", value, **estimated))
    return rows


def normal_rows(
    optimizer: str, metric: str, mean: float, spread: float, seeds: int, *, draw: random.Random
) -> list[Row]:
    """Rows of one setting, their values normal about ``mean``."""
    found = []
    for s in range(seeds):
        run = run_columns(optimizer, 0.1, 0.0, s)
        found.append(row(run, metric, "test", draw.gauss(mean, spread)))
    assert all(math.isfinite(r["value"]) for r in found)
    return found
