"""The one pass over all batches: what it refuses before anything is measured."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curvature import EmpiricalRisk, eigmax, ggn, hessian, trace
from curvature.empirical_risk import survey
from curvature.measures.measured_trace import MeasuredTrace
from curvature.measures.performance import Performance, performance
from tests.conftest import seeded

X, Y = torch.randn(6, 4, generator=seeded(0)), torch.arange(6) % 3


def detached(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.detach(), targets)


def wrong_ones(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) != targets).float()


def whole(model: nn.Module, batch: Any) -> Tensor:
    with torch.no_grad():
        return F.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize("loss", [detached, wrong_ones, whole])
def test_a_loss_without_a_graph_is_refused(loss: Any) -> None:
    with pytest.raises(ValueError, match="doesn't depend on the parameters: `detach`"):
        hessian(nn.Linear(4, 3), loss, [(X[:4], Y[:4]), (X[4:], Y[4:])])


def test_padding_without_a_graph_is_none() -> None:
    """Its value is a constant where nothing counts."""

    def counted(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        kept = targets != -100
        if not kept.any():
            return torch.zeros(()), kept.sum()
        return F.cross_entropy(outputs[kept], targets[kept]), kept.sum()

    y = torch.cat([torch.full((3,), -100), Y[3:]])
    risk = EmpiricalRisk(nn.Linear(4, 3), counted, [(X[:2], y[:2]), (X[2:], y[2:])])
    assert risk.survey.weight == 3


class Counting(nn.Linear):
    """Counts the examples that pass through."""

    seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return super().forward(x)


def test_the_survey_saves_another_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured() -> tuple[Performance, int]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Counting(4, 3)
        batches = [(X[:4], Y[:4]), (X[4:], Y[4:])]
        risk = EmpiricalRisk(model, "cross_entropy", batches, micro_batch=3)
        assert risk.survey.examples == len(X)
        before = model.seen
        return performance(risk), model.seen - before

    found, passed = measured()
    monkeypatch.setattr(survey, "KEPT", 3 * len(X) - 1)  # one number less than there are
    again, passed_again = measured()
    assert found == again
    assert (passed, passed_again) == (0, len(X))


@pytest.mark.parametrize("targets", [Y, torch.where(Y == 0, -100, Y)])
def test_a_trace_needs_no_survey_of_its_own(targets: Tensor) -> None:
    def traced(*, before: bool) -> tuple[MeasuredTrace, EmpiricalRisk, int]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Counting(4, 3)
        H = hessian(model, "cross_entropy", (X, targets), batch_size=4)
        assert H.risk.seen is None
        model.seen = 0
        if before:
            assert H.risk.value > 0
        return trace(H), H.risk, model.seen

    found, risk, passed = traced(before=False)
    expected, surveyed, passed_before = traced(before=True)
    assert found == expected
    assert passed == passed_before - len(X)
    assert risk.weight == surveyed.weight == (targets >= 0).sum()
    assert risk.seen is None  # an example's outputs may hang on its batch
    assert risk.survey == surveyed.survey


def test_an_operator_at_other_weights_is_looked_at_anew() -> None:
    x = X.clone()
    x[:, 3] = torch.eye(6)[-1]  # which only the last example has
    targets = torch.randn(6, 3, generator=seeded(1))
    risk = EmpiricalRisk(nn.Linear(4, 3), "mse", (x, targets), batch_size=3)
    H = hessian(risk)
    assert torch.isfinite(H @ torch.ones(H.size)).all()
    with torch.no_grad():
        risk.model.weight[:, 3] = 1e25
    for use in (trace, eigmax, lambda H: H @ torch.ones(H.size), lambda H: H.risk.gradient()):
        with pytest.raises(FloatingPointError, match="the run diverged"):
            use(hessian(risk))


def test_a_first_batch_of_padding_is_no_divergence() -> None:
    y = torch.cat([torch.full((8,), -100), Y])
    x = torch.cat([X, X, X])[: len(y)]
    with pytest.raises(ValueError, match="padding"):
        hessian(nn.Linear(4, 3), lambda outputs, targets: F.cross_entropy(outputs, targets), (x, y))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    "use",
    [trace, lambda H: H @ torch.ones(H.size), eigmax, lambda H: H.risk.gradient()],
)
def test_what_the_first_examples_do_not_show_is_refused_at_the_first_use(
    use: Any, reduction: Any
) -> None:
    x = torch.cat([X] * 4)
    x[-1] = math.inf
    loss = nn.CrossEntropyLoss(reduction=reduction)
    H = hessian(nn.Linear(4, 3), loss, (x, torch.cat([Y] * 4)), batch_size=10)
    with pytest.raises(FloatingPointError, match="the run diverged"):
        use(H)


def test_a_trace_of_what_overflows_is_no_number() -> None:
    x = torch.cat([X] * 4)
    x[-1] = 1e30
    targets = torch.randn(len(x), 3, generator=seeded(2))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    with pytest.raises(FloatingPointError, match=r"overflow in torch\.float32"):
        trace(ggn(model, "mse", (x, targets), batch_size=10))


def test_what_is_kept_holds_on_to_nothing_larger() -> None:
    class Part(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[:, :3]

    risk = EmpiricalRisk(Part(4, 100), "cross_entropy", [(X, Y)])
    assert risk.survey.outputs is not None
    (kept,) = risk.survey.outputs
    assert kept.untyped_storage().nbytes() == 4 * 3 * len(X)


def test_outputs_of_several_shapes_are_not_kept() -> None:
    outputs = survey._Outputs()
    for columns in (3, 2):
        outputs.add(torch.zeros(4, columns), 4)
    outputs.end_batch()
    assert outputs.all is None


def test_new_statistics_of_batch_norm_are_noticed() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()
    risk = EmpiricalRisk(model, "cross_entropy", [(X, Y)])
    before = risk.value
    model.train()(10 * X + 5)  # as when they are estimated anew for an average of weights
    model.eval()
    assert risk.value == pytest.approx(float(F.cross_entropy(model(X), Y).detach()))
    assert risk.value != pytest.approx(before, rel=1e-3)
