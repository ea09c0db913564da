"""The error that is stated against the error that is made, over many repetitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from curvature.linalg.hutchinson import student
from curvature.measures.draws import Draws
from tests.conftest import seeded

REPEATS = 500
SCALES = torch.logspace(0, 2, 80, dtype=torch.float64)  # a few units carry most of the sum


def drawn(seed: int, budget: float) -> Draws:
    """Skewed draws, x_u = scale_u · (1 + noise), in two rounds."""
    generator = seeded(seed)
    draws = Draws(len(SCALES), 1, generator)
    draws.weigh(SCALES.sqrt())  # the spread is known only roughly

    def values(units: Tensor) -> Tensor:
        noise = torch.randn(len(units), generator=generator, dtype=torch.float64)
        return (SCALES[units] * noise.square())[:, None]

    draws.add(torch.arange(len(SCALES)), values(torch.arange(len(SCALES))))
    for target in (budget / 2, budget):
        missing = draws.missing(target)
        for number in range(int(missing.max())):
            units = (missing > number).nonzero()[:, 0]
            draws.add(units, values(units))
        draws.budget = target
    return draws


@pytest.mark.parametrize("budget", [0.4, 1.5])
def test_the_stated_interval_covers_what_it_says(budget: float) -> None:
    truth = float(SCALES.sum())
    errors, variances, inside = [], [], 0
    for seed in range(REPEATS):
        draws = drawn(seed, budget)
        errors.append(draws.value - truth)
        variances.append(draws.variance())
        half_width = student(0.95, draws.degrees()) * math.sqrt(draws.variance())
        inside += abs(errors[-1]) <= half_width
    spread = torch.tensor(errors).std()
    assert abs(torch.tensor(errors).mean()) < 4 * spread / math.sqrt(REPEATS)  # unbiased
    assert torch.tensor(variances).mean().sqrt() == pytest.approx(float(spread), rel=0.1)
    assert 0.91 <= inside / REPEATS <= 0.98


def test_the_variance_at_a_larger_budget_is_foretold() -> None:
    foretold = [drawn(seed, 0.5).variance(1.5) for seed in range(200)]
    made = torch.tensor([drawn(seed, 1.5).value for seed in range(200)]).var()
    assert sum(foretold) / 200 == pytest.approx(float(made), rel=0.25)


def test_the_number_of_draws_is_what_the_budget_says() -> None:
    counts = [drawn(seed, 1.5).per_unit for seed in range(50)]
    assert sum(counts) / 50 == pytest.approx(2.5, abs=0.02)


def test_draws_without_spread_leave_no_error() -> None:
    draws = Draws(3, 2, seeded(0))
    for _ in range(2):
        draws.add(torch.arange(3), torch.ones(3, 2, dtype=torch.float64))
    draws.budget = 1.0
    assert (draws.value, draws.variance(), draws.degrees()) == (6.0, 0.0, math.inf)


def test_one_unit_that_outweighs_the_others_is_not_hidden_by_its_single_draw() -> None:
    hidden, errors = 0, []
    for seed in range(60):
        draws, generator = Draws(300, 1, seeded(seed)), seeded(1000 + seed)
        draws.budget = 0.5
        size = torch.ones(300, dtype=torch.float64)
        size[7] = 200.0
        missing = draws.missing(0.5)
        for _ in range(int(missing.max())):
            units = (missing > draws.counts).nonzero()[:, 0]
            noise = 0.6 + 0.8 * torch.rand(len(units), generator=generator, dtype=torch.float64)
            draws.add(units, (size[units] * noise)[:, None])
        errors.append(draws.value - float(size.sum()))
        hidden += abs(errors[-1]) > 3 * draws.variance() ** 0.5
    assert max(map(abs, errors)) > 50
    assert hidden <= 10  # about 30 where a single draw counts as sure, 6 so


def test_repeats_are_second_draws_weighed_by_size() -> None:
    draws = Draws(4, 1, seeded())
    assert draws.repeats() == math.inf
    sizes = torch.tensor([[1.0], [1.0], [1.0], [0.0]], dtype=torch.float64)
    draws.add(torch.arange(4), sizes)
    assert draws.repeats() == 0.0
    draws.add(torch.tensor([0, 3]), sizes[[0, 3]])
    assert draws.repeats() == pytest.approx(1.0)
    draws.add(torch.tensor([0, 1, 2]), sizes[:3])
    assert draws.repeats() == pytest.approx((2 + 1 + 1) ** 2 / (2 + 1 + 1))
    large = Draws(2, 1, seeded())
    for _ in range(5):
        large.add(torch.arange(2), torch.tensor([[1000.0], [1.0]], dtype=torch.float64))
    assert large.repeats() == pytest.approx(4.0, rel=1e-3)
