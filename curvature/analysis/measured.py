"""Estimates as rows: value, uncertainty, cost, and whether it got there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import torch
from torch import Generator

from curvature import crosscheck
from curvature.analysis.subject import Subject
from curvature.linalg import EigenEstimate
from curvature.measures.eigmax import eigenvalues, eigmax, eigmin
from curvature.measures.norms import norms
from curvature.measures.performance import performance
from curvature.measures.trace import Method, trace
from curvature.operators import RiskOperator
from curvature.runs.config import AnalysisConfig
from curvature.runs.rows import Row, measured_row

Report = Callable[[str, Any], object]  # (metric, interim estimate)
Told = Callable[[Any], object]


def describing_rows(subject: Subject) -> list[Row]:
    """What stands beside every curvature: loss, accuracy, calibration and norms."""
    start = time.perf_counter()
    measured, scale = performance(subject.risk), norms(subject.risk)
    seconds = time.perf_counter() - start
    values = [
        ("loss", measured.loss, None),
        ("accuracy", measured.accuracy, measured.accuracy_error),
        ("calibration_error", measured.calibration_error, None),
        ("weight_norm", scale.weight_norm, None),
        ("gradient_norm", scale.gradient_norm, None),
    ]
    return [
        measured_row(metric, value=value, sampling_error=error, method="exact", seconds=seconds)
        for metric, value, error in values
        if value is not None
    ]


def measured_rows(H: RiskOperator, config: AnalysisConfig, report: Report) -> Iterator[Row]:
    """A row for each curvature asked for; one that diverged doesn't hold up the others."""
    ours = config.backend == "curvature"
    wanted: list[tuple[str, bool, Callable[..., list[Row]]]] = [
        ("eigmax", config.wants_eigmax, _eigmax if ours else _pyhessian_eigmax),
        ("eigmin", config.eigmin and ours, _eigmin),
        ("trace", config.wants_trace, _trace if ours else _pyhessian_trace),
    ]
    for metric, asked, measure in wanted:
        if not asked:
            continue
        start = time.perf_counter()
        generator = torch.Generator().manual_seed(config.seed)
        try:
            found = measure(H, config, generator, partial(report, metric))
        except FloatingPointError as error:
            found = [measured_row(metric, status="diverged", converged=False, message=str(error))]
        seconds = time.perf_counter() - start
        yield from ({**row, "seconds": seconds} for row in found)


def _trace(H: RiskOperator, config: AnalysisConfig, generator: Generator, told: Told) -> list[Row]:
    found = trace(
        H,
        method=cast(Method, config.trace_method),
        rtol=config.trace_rtol,
        max_passes=config.max_passes,
        scale_invariant=config.scale_invariant,
        generator=generator,
        report=told,
    )
    measures = {"trace": found, "scale_invariant_trace": found.scale_invariant}
    return [
        measured_row(
            metric,
            value=each.value,
            standard_error=each.standard_error,
            sampling_error=each.sampling_error,
            passes=each.passes,
            converged=each.converged,
            method=each.method,
            products=H.method,
            products_error=_error(H),
        )
        for metric, each in measures.items()
        if each is not None
    ]


def _eigmax(H: RiskOperator, config: AnalysisConfig, generator: Generator, told: Told) -> list[Row]:
    limits: dict[str, Any] = {"rtol": config.eigmax_rtol, "max_products": config.max_products}
    if config.eigmax_method == "power":
        found = eigmax(H, method="power", generator=generator, report=told, **limits)
        return [_eigen_row("eigmax", found, "power iteration", H)]
    staged = config.eigmax_method == "staged"
    top = eigenvalues(
        H,
        config.top,
        method="staged" if staged else "lanczos",
        generator=generator,
        report=told,
        **limits,
    )
    where = top[0].searched
    method = f"staged: larger ones looked for in {where}" if where else "lanczos"
    rows = [_eigen_row("eigmax", top[0], method, H)]
    if config.top > 1:
        rows += [_eigen_row("eigenvalue", each, method, H, index=i) for i, each in enumerate(top)]
    return rows


def _eigmin(H: RiskOperator, config: AnalysisConfig, generator: Generator, told: Told) -> list[Row]:
    found = eigmin(
        H,
        rtol=config.eigmax_rtol,
        max_products=config.max_products,
        generator=generator,
        report=told,
    )
    return [_eigen_row("eigmin", found, "lanczos", H)]


def _pyhessian_trace(
    H: RiskOperator, config: AnalysisConfig, generator: Generator, told: Told
) -> list[Row]:
    found = crosscheck.pyhessian_trace(
        H.risk, generator=generator, rtol=config.trace_rtol, max_passes=config.max_passes
    )
    return [_crosscheck_row("trace", found)]


def _pyhessian_eigmax(
    H: RiskOperator, config: AnalysisConfig, generator: Generator, told: Told
) -> list[Row]:
    found = crosscheck.pyhessian_eigmax(
        H.risk, generator=generator, rtol=config.eigmax_rtol, max_products=config.max_products
    )
    return [_crosscheck_row("eigmax", found)]


def _eigen_row(
    metric: str, found: EigenEstimate, method: str, H: RiskOperator, *, index: int = 0
) -> Row:
    return measured_row(
        metric,
        index=index,
        value=found.value,
        residual=found.residual,
        passes=found.products,
        converged=found.converged,
        method=method,
        products=H.method,
        products_error=_error(H),
    )


def _crosscheck_row(metric: str, found: crosscheck.CrossCheck) -> Row:
    return measured_row(
        metric,
        value=found.value,
        standard_error=found.standard_error,
        residual=found.residual,
        passes=found.products,
        converged=found.converged,
        method="pyhessian",
        message=found.warning,
    )


def _error(H: RiskOperator) -> float | None:
    """Of products by differences, relative to the largest eigenvalue met with."""
    return None if H.differences is None else H.differences.error
