"""How well a network does on a data set: loss, accuracy, calibration; by groups where it has some.

A row's `block` names the examples it is about: None all of them, `corruption=fog` a group,
`corruption=fog,severity=3` a combination, `mean over corruption` the mean of the groups' numbers.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from curvature.datasets.batches import fixed
from curvature.datasets.dataset import Dataset
from curvature.empirical_risk import EmpiricalRisk
from curvature.measures.performance import Performance, performance_of

Row = dict[str, Any]

METRICS = ("loss", "accuracy", "calibration_error")
_EMPTY = ("probe", "standard_error", "sampling_error", "residual", "passes", "seconds", "message")


def evaluate(
    model: nn.Module, data: Dataset, loss: Any = "cross_entropy", *, batch_size: int = 500
) -> list[Row]:
    """A row for each of loss, accuracy and expected calibration error, in evaluation mode.

    Of grouped data also one for each group and combination of groups, and the mean over the kinds
    of the first grouping: ``calibration_error`` of a mean is not the mean of the groups' errors.
    """
    risk = EmpiricalRisk(model, loss, fixed(data, batch_size))
    if risk.loss is None:
        return [_row("loss", _value(risk), len(data), None)]
    outputs, targets = _outputs(risk), data.targets.to(risk.device)
    rows = _rows(performance_of(outputs, targets, risk.loss), None)
    for block, chosen in _groups(data):
        index = chosen.to(risk.device)
        rows += _rows(performance_of(outputs[index], targets[index], risk.loss), block)
    return rows + _mean_rows(rows, data)


def _outputs(risk: EmpiricalRisk) -> Tensor:
    with risk.evaluating(), torch.no_grad():
        return torch.cat(
            [risk.outputs(part) for batch in risk.batches for part in risk.parts(batch)]
        )


def _value(risk: EmpiricalRisk) -> float:
    try:
        return risk.value
    except FloatingPointError:
        return math.nan


def _groups(data: Dataset) -> Iterator[tuple[str, Tensor]]:
    """The label and the indices of each group of each grouping, then of each combination."""
    several = [name for name, (codes, _) in data.groups.items() if _levels(codes) > 1]
    for name in dict.fromkeys([*list(data.groups)[:1], *several]):
        yield from _levels_of(data, [name])
    if len(several) > 1:
        yield from _levels_of(data, several)


def _levels(codes: Tensor) -> int:
    return len(torch.unique(codes))


def _levels_of(data: Dataset, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    codes = torch.stack([data.groups[name][0] for name in names], dim=1)
    for combination in torch.unique(codes, dim=0):
        label = ",".join(
            f"{name}={data.groups[name][1][int(code)]}"
            for name, code in zip(names, combination, strict=True)
        )
        yield label, (codes == combination).all(dim=1).nonzero().view(-1)


def _rows(found: Performance, block: str | None) -> list[Row]:
    return [
        _row(
            metric,
            getattr(found, metric),
            found.examples,
            block,
            sampling_error=found.accuracy_error if metric == "accuracy" else None,
        )
        for metric in METRICS
        if getattr(found, metric) is not None
    ]


def _mean_rows(rows: Sequence[Row], data: Dataset) -> list[Row]:
    """The mean of each metric over the kinds of the first grouping."""
    if not data.groups:
        return []
    name = next(iter(data.groups))
    labels = {f"{name}={label}" for label in data.groups[name][1]}
    means = []
    for metric in METRICS:
        found = [row for row in rows if row["metric"] == metric and row["block"] in labels]
        if found:
            value = math.fsum(row["value"] for row in found) / len(found)
            examples = sum(row["examples"] for row in found)
            means.append(_row(metric, value, examples, f"mean over {name}", n=len(found)))
    return means


def _row(metric: str, value: float, examples: int, block: str | None, **fields: Any) -> Row:
    row: Row = {"metric": metric, "block": block, "index": 0, **dict.fromkeys(_EMPTY)}
    row |= {"value": value, "examples": examples, "method": "exact", "converged": True}
    return {**row, "status": "ok" if math.isfinite(value) else "diverged", **fields}
