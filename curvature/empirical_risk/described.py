"""An empirical risk in words, without a pass over its batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from curvature.display import text

if TYPE_CHECKING:
    from curvature.empirical_risk.risk import EmpiricalRisk
    from curvature.empirical_risk.survey import Survey


def described(risk: EmpiricalRisk, survey: Survey | None) -> dict[str, str]:
    """What is measured, by name; of the ``survey`` what it told, where there was one."""
    whole = getattr(risk.given_loss, "__name__", type(risk.given_loss).__name__)
    batches = len(risk.batches)
    data = f"{batches} batch{'es' if batches != 1 else ''}"
    examples = survey.examples if survey else 0
    if not survey and risk.batches.in_memory:
        examples = sum(map(risk.examples_in, risk.batches))
    about = {
        "model": type(risk.model).__name__,
        "parameters": f"{risk.size:,} in {len(risk.params)} tensors",
        "loss": risk.loss.name if risk.loss else f"{whole}(model, batch)",
        "data": f"{examples:,} examples in {data}" if examples else data,
        "reduction": risk.reduction,
        "mode": risk.mode,
        "dtype": str(risk.dtype).removeprefix("torch."),
        "device": str(risk.device),
    }
    if survey:
        about |= {"L(w)": text(survey.value), "weight": text(survey.weight)}
    return about | ({"notes": "; ".join(risk.notes)} if risk.notes else {})


def in_a_line(about: dict[str, str]) -> str:
    """The gist of it."""
    where = f"{about['dtype']} on {about['device']}"
    return f"{about['model']}, {about['loss']} over {about['data']}, {where}"
