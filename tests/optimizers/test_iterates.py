"""Each step against the same step in NumPy, taken from the program's own iterates.

Not freely: at η_0 = 1/L a rounding error of SA-SGD grows from 1e-16 to 1e-2 within 40 steps.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from curvature.optimizers import build
from tests.optimizers import iterates
from tests.optimizers.iterates import DECAY, LR, RHO, Memory
from tests.optimizers.problems import PROBLEMS, Problem, Training

STEPS = 60

FIXED: list[tuple[str, Callable[..., Any], dict[str, Any]]] = [
    ("sgd", iterates.sgd, {}),
    ("msgd", iterates.msgd, {}),
    ("adam", iterates.adam, {}),
    ("sam", iterates.sam, {"rho": RHO}),
    ("sam", iterates.asam, {"rho": RHO, "options": ["adaptive=true"]}),
]
ADAPTIVE = [
    ("sa-sgd", "poster", iterates.sa_sgd),
    ("sa-sam", "poster", iterates.sa_sam),
    ("sa-sgd", "released", iterates.released_sa_sgd),
    ("sa-sam", "released", iterates.released_sa_sam),
]
on_each_problem = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)


@on_each_problem
@pytest.mark.parametrize(
    ("name", "oracle", "options"), FIXED, ids=[case[1].__name__ for case in FIXED]
)
def test_a_step_with_a_given_eta_is_the_one_in_numpy(
    problem: Problem, name: str, oracle: Callable[..., Any], options: dict[str, Any]
) -> None:
    training = Training(problem)
    optimizer = build(name, training.groups, lr=LR, weight_decay=DECAY, **options)
    memory = Memory()
    for training.t in range(STEPS):
        expected = oracle(training.w, partial(problem.gradient, t=training.t), memory)
        optimizer.step(training.closure)
        np.testing.assert_allclose(training.w, expected, rtol=0, atol=1e-10)


@on_each_problem
@pytest.mark.parametrize(
    ("name", "variant", "oracle"), ADAPTIVE, ids=[f"{v}-{n}" for n, v, _ in ADAPTIVE]
)
def test_a_step_with_an_adaptive_eta_is_the_one_in_numpy(
    problem: Problem, name: str, variant: str, oracle: Callable[..., Any]
) -> None:
    training = Training(problem)
    optimizer = build(name, training.groups, lr=problem.eta, weight_decay=DECAY, sa_variant=variant)
    memory, seen = Memory(lr=problem.eta), set()
    if variant == "released":
        cut = problem.split
        oracle = partial(oracle, blocks=[slice(0, cut), slice(cut, None)])
    for training.t in range(STEPS):
        w = training.w
        expected = oracle(w, partial(problem.gradient, t=training.t), memory)
        before = memory.eta or [problem.eta] * 2
        optimizer.step(training.closure)
        np.testing.assert_allclose(training.w, expected, rtol=0, atol=1e-10)
        memory.w_before = w
        memory.eta = [group["lr"] for group in optimizer.param_groups]
        first_poster = variant == "poster" and training.t == 0
        memory.theta = [
            np.inf if first_poster else new / old
            for new, old in zip(memory.eta, before, strict=True)
        ]
        seen.add(optimizer.last_step.active)
    assert seen == {"first", "smoothness", "growth"}  # the run has tried both terms of the min


@on_each_problem
@pytest.mark.parametrize("name", ["sa-sgd", "sa-sam"])
def test_the_first_steps_agree_when_numpy_runs_freely(problem: Problem, name: str) -> None:
    training = Training(problem)
    optimizer = build(name, training.groups, lr=LR, weight_decay=DECAY)
    oracle = iterates.sa_sgd if name == "sa-sgd" else iterates.sa_sam
    memory, w = Memory(), training.w
    for training.t in range(6):
        grad = partial(problem.gradient, t=training.t)
        eta = iterates.poster_eta(w, grad, memory)
        following = oracle(w, grad, memory)
        theta = eta / memory.eta[0] if memory.eta else np.inf
        memory = Memory(w_before=w, eta=[eta], theta=[theta])
        w = following
        optimizer.step(training.closure)
        np.testing.assert_allclose(training.w, w, rtol=0, atol=1e-10)


def test_sa_sam_differs_from_sa_sgd_from_the_first_step_on() -> None:
    ends = []
    for name in ("sa-sgd", "sa-sam"):
        training = Training(PROBLEMS[1])
        build(name, training.groups, lr=LR).step(training.closure)
        ends.append(training.w)
    assert np.abs(ends[0] - ends[1]).max() > 1e-3


@pytest.mark.parametrize("base", ["sgd", "msgd", "adam"])
def test_sam_with_radius_zero_is_its_base_bitwise(base: str) -> None:
    ends = []
    for name, options in ((base, {}), ("sam", {"rho": 0.0, "options": [f"base={base}"]})):
        training = Training(PROBLEMS[1])
        optimizer = build(name, training.groups, lr=LR, weight_decay=DECAY, **options)
        for training.t in range(20):
            optimizer.step(training.closure)
        ends.append(training.w)
    np.testing.assert_array_equal(*ends)


@pytest.mark.parametrize("variant", ["poster", "released"])
def test_constants_by_name_make_one_variant_out_of_the_other(variant: str) -> None:
    """So the table of differences is complete."""
    other = {"poster": "released", "released": "poster"}[variant]
    constants = {
        "poster": "growth=1 damping=2 theta0=inf rho_lag=no epsilon=0 per_group=no grow_at_zero=no",
        "released": "growth=.02 damping=1 theta0=1 rho_lag=yes epsilon=1e-8 per_group=yes "
        "grow_at_zero=yes",
    }[variant].split()
    ends = []
    for settings in ({"sa_variant": variant}, {"sa_variant": other, "options": constants}):
        training = Training(PROBLEMS[1])
        optimizer = build("sa-sam", training.groups, lr=LR, **settings)
        for training.t in range(12):
            optimizer.step(training.closure)
        ends.append(training.w)
    np.testing.assert_array_equal(*ends)


def test_the_first_call_of_a_step_is_at_the_present_weights_and_the_second_at_the_previous() -> (
    None
):
    training = Training(PROBLEMS[0])
    optimizer = build("sa-sam", training.groups, lr=LR)
    w = [training.w]
    for _ in range(3):
        training.calls.clear()
        optimizer.step(training.closure)
        w.append(training.w)
    np.testing.assert_array_equal(training.calls[0], w[2])
    np.testing.assert_array_equal(training.calls[1], w[1])
    climbed = training.calls[2] - w[2]
    np.testing.assert_allclose(np.linalg.norm(climbed), optimizer.last_step.rho, rtol=1e-12)
