"""The examples of losses, models and batches: what they print is what a dense Hessian says."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.oracles import hessian_by_differences

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
Found = dict[str, Any]


def run(name: str) -> Found:
    """The script's own names; the defaults of torch that it sets are put back."""
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            return runpy.run_path(str(EXAMPLES / f"{name}.py"))
        finally:
            torch.set_default_dtype(dtype)


def eigenvalues(model: nn.Module, value: Callable[[], Tensor]) -> Tensor:
    """Of the dense Hessian in float64, by differences of the gradient."""
    params = list(model.double().eval().parameters())
    unit = torch.eye(sum(p.numel() for p in params), dtype=torch.float64)
    H = hessian_by_differences(value, params, unit)
    return torch.linalg.eigvalsh((H + H.T) / 2)


def check(printed: str, expected: Tensor) -> None:
    """The last two estimates that were printed."""
    lines = [line for line in printed.splitlines() if " = " in line]
    trace, top = lines[-2], lines[-1]
    assert trace.startswith("Tr(H) = MeasuredTrace(")
    assert top.startswith("λ_max = EigenEstimate(")
    value, error = (float(text) for text in between(trace).split(" ± "))
    assert abs(value - float(expected.sum())) <= 5 * error
    assert float(between(top).split(" ± ")[0]) == pytest.approx(float(expected[-1]), rel=2e-3)
    assert printed.count(", converged,") == len(lines)


def between(line: str) -> str:
    return line.partition(" = ")[2].partition("(")[2].split(",")[0]


def multi_label(found: Found) -> Callable[[], Tensor]:
    x, y, omega = found["inputs"].double(), found["labels"].double(), found["loss"].pos_weight

    def value() -> Tensor:
        p = found["model"](x).sigmoid()
        return -(omega * y * p.log() + (1 - y) * (1 - p).log()).mean()

    return value


def regression(found: Found) -> Callable[[], Tensor]:
    x, y = found["inputs"].double(), found["targets"].double()

    def value() -> Tensor:
        return (2.5 * (1 + (found["model"](x) - y) ** 2 / 4).log()).mean()

    return value


def physics_informed(found: Found) -> Callable[[], Tensor]:
    return lambda: found["loss"](found["model"], found["x"])


@pytest.mark.parametrize("reference", [multi_label, regression, physics_informed])
def test_what_is_printed_is_what_a_dense_hessian_says(
    reference: Callable[[Found], Callable[[], Tensor]], capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(reference.__name__)
    check(capsys.readouterr().out, eigenvalues(found["model"], reference(found)))


def test_two_heads_and_the_body_alone(capsys: pytest.CaptureFixture[str]) -> None:
    found = run("several_heads")
    printed = capsys.readouterr().out.splitlines()
    x, y = found["images"].double(), found["targets"]["digit"]
    model = found["model"]

    def value() -> Tensor:
        outputs = model(x)
        log_p = outputs["digit"].log_softmax(1)
        return -log_p.gather(1, y[:, None]).mean() + 10 * ((outputs["ink"] - x.mean(1)) ** 2).mean()

    check("\n".join(printed[:2]), eigenvalues(model, value))
    body = eigenvalues(model.body, value)
    assert float(between(printed[2]).split(" ± ")[0]) == pytest.approx(float(body[-1]), rel=2e-3)


def test_a_hugging_face_language_model(capsys: pytest.CaptureFixture[str]) -> None:
    found = run("hugging_face")
    printed = capsys.readouterr().out
    model, batch = found["model"].eval(), found["batch"]
    assert f"over {(batch['labels'][:, 1:] != -100).sum()} letters" in printed

    def value() -> Tensor:
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        f, y = logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
        return F.cross_entropy(f[y >= 0], y[y >= 0])

    assert float(printed.split()[1]) == pytest.approx(float(value().detach()), abs=1e-5)
    check(printed, eigenvalues(model, value))
