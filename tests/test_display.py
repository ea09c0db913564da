"""What results say of themselves: in a line, in a notebook, in a data frame."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import curvature
from curvature.display import Several, Shown, html_table
from curvature.measures.norms import norms
from tests.corpus.case import VECTORS, Y


@dataclass(frozen=True, repr=False)
class Found(Shown):
    _error = "error"
    _brief = ("count", "method", "share")

    value: float
    error: float | None
    converged: bool = True
    count: int = 3
    method: str | None = None
    share: float = 0.25
    kept: tuple[float, ...] = field(default=(), repr=False)


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (Found(17773.26, 110.4), "Found(17773.3 ± 1.1e+02, converged, 3 count, share 0.25)"),
        (Found(0.5, 0.01, False), "Found(0.5 ± 0.01, NOT CONVERGED, 3 count, share 0.25)"),
        (Found(2.0, None, method="by a"), "Found(2, converged, 3 count, by a, share 0.25)"),
    ],
)
def test_a_line_has_value_error_and_whether_it_got_there(found: Found, line: str) -> None:
    assert repr(found) == str(found) == line


def made() -> curvature.LinearOperator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    return curvature.hessian(model, "cross_entropy", (VECTORS.float(), Y), weight_decay=0.1)


def results() -> list[Any]:
    H = made()
    matrix = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    power = curvature.eigmax(curvature.LinearOperator.from_matrix(matrix), method="power")
    one = [curvature.eigmax(H), curvature.eigmin(H), power, curvature.trace(H, rtol=0.1)]
    risk = H.risk
    return [*one, curvature.trace(H, method="hutchinson", rtol=0.2), curvature.performance(risk),
            norms(risk), risk.survey]  # fmt: skip


def test_every_result_shows_itself_in_a_line_a_table_and_a_row() -> None:
    for found in results():
        row = found.to_dict()
        assert json.loads(json.dumps(row)) == row  # numbers and texts only
        assert "\n" not in repr(found)
        assert len(repr(found)) < 150
        assert "tensor" not in repr(found)
        series = found.to_series()
        assert series.to_dict() == row
        assert series.name == type(found).__name__
        table = ElementTree.fromstring(found._repr_html_())
        names = [cell.text for cell in table.iter("th")]
        assert names == [name for name, value in row.items() if value is not None]


def test_several_eigenvalues_are_a_tuple_and_a_frame() -> None:
    found = curvature.eigenvalues(made(), 3)
    assert isinstance(found, tuple)
    assert len(found) == 3
    frame = found.to_frame()
    assert frame["value"].tolist() == [each.value for each in found]
    assert repr(found).count("EigenEstimate(") == 3
    table = ElementTree.fromstring(found._repr_html_())
    assert len(list(table.iter("tr"))) == 4
    ElementTree.fromstring(Several([])._repr_html_())


def test_the_operator_says_what_it_is_the_hessian_of() -> None:
    H = made()
    assert repr(H) == (
        "Hessian H, 43 × 43: Sequential, cross_entropy over 7 examples in 1 batch, float32 on cpu"
    )
    assert "L(w)" not in H._repr_html_()  # which would take a pass
    value = H.risk.value
    table = ElementTree.fromstring(H._repr_html_())
    cells = {row[0].text: row[1].text for row in table.iter("tr")}
    assert cells["matrix"] == "43 × 43"
    assert cells["weight decay counted in"] == "0.1"
    assert float(cells["L(w)"] or 0) == pytest.approx(value, rel=1e-5)
    assert repr(H.risk).startswith("EmpiricalRisk, 43 parameters: Sequential")
    assert repr(curvature.ggn(H.risk)).startswith("Gauss–Newton matrix G, 43 × 43")


def test_a_loss_of_ones_own_is_named_and_nothing_is_computed_to_say_so() -> None:
    calls = []

    def my_loss(model: nn.Module, batch: Any) -> torch.Tensor:
        calls.append(1)
        return F.cross_entropy(model(batch[0]), batch[1])

    model = nn.Linear(4, 3).double()
    risk = curvature.EmpiricalRisk(model, my_loss, [(VECTORS, Y)])
    assert "Linear, my_loss(model, batch) over 7 examples in 1 batch" in repr(risk)
    assert "<td" in risk._repr_html_()
    assert not calls


def test_what_comes_from_outside_is_escaped() -> None:
    bad = "<script>alert(1)</script>"
    for html in (
        html_table(bad, {bad: bad}),
        Found(1.0, 0.1, method=bad)._repr_html_(),
        Several([Found(1.0, 0.1, method=bad)])._repr_html_(),
    ):
        assert "<script>" not in html
        ElementTree.fromstring(html)
