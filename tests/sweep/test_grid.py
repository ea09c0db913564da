"""Which runs a grid consists of."""

from pathlib import Path

import pytest

from curvature.runs.config import AnalysisConfig, RunConfig
from curvature.sweep import grid, values
from curvature.sweep.work import works_of

BASE = RunConfig(lr=0.5, seed=3)


def test_a_grid_is_every_combination_seed_after_seed() -> None:
    configs = grid(
        BASE, optimizers=["sgd", "sam"], lr={None: [0.1, 1.0]}, weight_decay={None: [0, 1]}, seeds=2
    )
    cells = [(c.optimizer, c.lr, c.weight_decay) for c in configs]
    assert len(set(cells)) == 8
    assert cells[:8] == cells[8:]
    assert [c.seed for c in configs] == [3] * 8 + [4] * 8


def test_what_is_not_swept_is_the_base() -> None:
    (config,) = grid(BASE, optimizers=["sgd"])
    assert config == BASE


def test_an_optimizer_has_its_own_values_instead_of_the_common_ones() -> None:
    configs = grid(BASE, optimizers=["sgd", "adam"], lr=values(["0.1,1", "adam=1e-3"], "lr"))
    assert [(c.optimizer, c.lr) for c in configs] == [("sgd", 0.1), ("sgd", 1.0), ("adam", 1e-3)]


def test_rho_is_for_those_that_take_it() -> None:
    configs = grid(BASE, optimizers=["sgd", "sam", "sa-sam"], rho={None: [0.05, 0.1]})
    assert [(c.optimizer, c.rho) for c in configs] == [
        ("sgd", None),
        ("sam", 0.05),
        ("sam", 0.1),
        ("sa-sam", None),
    ]


def test_what_stands_twice_is_run_once() -> None:
    assert len(grid(BASE, optimizers=["sgd", "sgd"], lr={None: [0.1, 0.1]})) == 1


def test_zero_is_a_value_and_not_a_gap() -> None:
    (config,) = grid(RunConfig(weight_decay=1), optimizers=["sgd"], weight_decay={None: [0.0]})
    assert config.weight_decay == 0


@pytest.mark.parametrize("text", ["fast", "0.1,", "adam=", "0.1;1"])
def test_what_is_no_number_is_refused_by_its_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"`lr` takes numbers.*none"):
        values([text], "lr")


def test_values_for_an_optimizer_that_is_not_swept_are_refused() -> None:
    with pytest.raises(ValueError, match="`adam`, which isn't swept"):
        grid(BASE, optimizers=["sgd"], lr={"adam": [0.1]})


def test_a_grid_without_seeds_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 seed"):
        grid(BASE, optimizers=["sgd"], seeds=0)


def test_products_are_plain_in_a_sweep_unless_asked_otherwise(tmp_path: Path) -> None:
    analyses = [AnalysisConfig(trace=True), AnalysisConfig(eigmax=True, products="auto")]
    works = works_of([RunConfig()], tmp_path, analyses, (), "cpu")
    assert [w.analysis.products for w in works if w.analysis] == ["plain", "auto"]
