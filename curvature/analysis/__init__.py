"""From a checkpoint and an `AnalysisConfig` to rows: what was measured, on what, and how well."""

from __future__ import annotations

import os
from collections.abc import Callable

from curvature.analysis.measured import Report, describing_rows, measured_rows
from curvature.analysis.subject import Subject, load_subject
from curvature.measures.plan import Plan, plan
from curvature.operators import RiskOperator, hessian
from curvature.runs.checkpoint import Checkpoint, load_checkpoint
from curvature.runs.config import AnalysisConfig
from curvature.runs.rows import Row

__all__ = ["Interrupted", "Row", "Subject", "analyze", "load_subject", "operator_of", "plan_of"]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in the midst of a checkpoint: ``rows`` are those that were finished."""

    def __init__(self, rows: list[Row]) -> None:
        super().__init__()
        self.rows = rows


def analyze(
    checkpoint: Checkpoint | str | os.PathLike[str],
    config: AnalysisConfig,
    *,
    trust: bool = False,
    announce: Callable[[str], None] | None = None,
    report: Report | None = None,
) -> list[Row]:
    """Measure what ``config`` asks for; a row per number, with its uncertainty and provenance.

    ``announce`` is told in a line each what was loaded and what it will cost, before it is spent;
    ``report`` gets (metric, interim estimate). With ``trust``, module:callable names in the
    checkpoint itself are imported, which runs their code.

    Raises:
        ValueError: for what can't be measured. FloatingPointError: for weights that diverged.
        Interrupted: a KeyboardInterrupt with the rows that are finished.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load_checkpoint(checkpoint)
    say = announce or (lambda line: None)
    subject = load_subject(checkpoint, config, trust=trust)
    for note in subject.notes:
        say(note)
    H = operator_of(subject, config)
    for note in H.risk.notes:
        if note not in subject.notes:
            say(note)
    say(str(plan_of(H, config)))  # which also sees to it that the work fits in memory
    rows: list[Row] = []
    try:
        rows += describing_rows(subject)
        for row in measured_rows(H, config, report or (lambda metric, interim: None)):
            rows.append(row)
    except KeyboardInterrupt as error:
        raise Interrupted([{**row, **subject.provenance} for row in rows]) from error
    return [{**row, **subject.provenance} for row in rows]


def operator_of(subject: Subject, config: AnalysisConfig) -> RiskOperator:
    """The Hessian as it is asked for; its way of forming products is chosen once."""
    return hessian(
        subject.risk,
        weight_decay=subject.weight_decay,
        memory=config.memory_bytes,
        plain=config.products == "plain",
        differences=config.products == "differences",
    )


def plan_of(H: RiskOperator, config: AnalysisConfig) -> Plan:
    """What the measurements will cost, from products with a few of the examples."""
    eigenvalues = config.top if config.wants_eigmax else 0
    return plan(
        H,
        trace=config.wants_trace,
        by_parts=config.trace_method != "hutchinson" and config.backend == "curvature",
        eigenvalues=eigenvalues + config.eigmin,
        staged=eigenvalues if config.eigmax_method == "staged" else 0,
    )
