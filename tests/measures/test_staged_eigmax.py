"""λ_max by way of weighted examples: right where it says so, and Lanczos where it can't be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from curvature.linalg import LinearOperator
from curvature.losses.bundled import cross_entropy
from curvature.measures.eigmax import eigenvalues, eigmax
from curvature.measures.plan import plan
from curvature.measures.staged_eigmax import LEAST, subsampled
from curvature.operators import ggn, hessian
from tests.conftest import seeded
from tests.corpus.case import f64

UNEQUAL = cross_entropy(class_weights=torch.tensor([1.0, 20.0, 0.1], dtype=f64))


def network(activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), activation(), nn.Linear(5, 3)).double()


def examples(count: int = LEAST) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 4, generator=seeded(1), dtype=f64)
    return x, torch.randint(3, (count,), generator=seeded(2))


def dense(H: LinearOperator) -> Tensor:
    return torch.stack([H @ e for e in torch.eye(H.size, dtype=f64)])


@pytest.mark.parametrize("make", [hessian, ggn])
@pytest.mark.parametrize("loss", ["cross_entropy", UNEQUAL, "mse", "bce", "huber"])
def test_the_largest_are_right(make: Any, loss: Any) -> None:
    x, y = examples()
    target = y if loss in ("cross_entropy", UNEQUAL) else nn.functional.one_hot(y, 3).double()
    H = make(network(), loss, (x, target), weight_decay=0.1)
    true = torch.linalg.eigvalsh(dense(H)).flip(0)
    found = eigenvalues(H, 2, method="staged", generator=seeded(0))
    assert [each.value for each in found] == pytest.approx(true[:2].tolist(), rel=2e-3)


def test_it_says_where_a_larger_one_was_looked_for() -> None:
    H = hessian(network(), "cross_entropy", examples())
    found, plain = eigmax(H, method="staged"), eigmax(H)
    assert found.converged
    assert "weighted examples" in found.searched
    assert (found.confidence, plain.confidence, plain.searched) == (0.0, 0.99, "")
    assert found.products < plain.products


def test_the_subsample_has_the_whole_as_its_mean() -> None:
    H = hessian(network(), UNEQUAL, examples(), weight_decay=0.1)
    whole = dense(H)
    parts = [dense(subsampled(H, 128, seeded(seed))) for seed in range(16)]
    mean, spread = torch.stack(parts).mean(0), torch.stack(parts).std(0) / 16**0.5
    assert float(((mean - whole).abs() / (spread + 1e-9)).mean()) < 1.2  # 0.8 for a normal law
    assert float((mean - whole).norm()) < 0.1 * float(whole.norm())


def test_the_subsample_is_in_few_batches_with_the_weights_of_its_examples() -> None:
    x, y = examples()
    H = hessian(network(), "cross_entropy", list(zip(x.split(16), y.split(16), strict=True)))
    batches = subsampled(H, 128, seeded(0)).risk.batches
    assert len(batches) <= 10  # of 16 each
    apart = hessian(network(), "cross_entropy", list(zip(x.split(1), y.split(1), strict=True)))
    weights = {}
    for inputs, (_, found) in subsampled(apart, 128, seeded(0)).risk.batches:
        weights.update(zip(map(tuple, inputs.tolist()), found.tolist(), strict=True))
    together = [
        (tuple(row), c)
        for b in batches
        for row, c in zip(b[0].tolist(), b[1][1].tolist(), strict=True)
    ]
    assert dict(together) == pytest.approx(weights)


def test_too_few_examples_or_no_risk_are_left_to_lanczos() -> None:
    few = hessian(network(), "cross_entropy", examples(LEAST - 1))
    matrix = LinearOperator.from_matrix(torch.diag(torch.tensor([3.0, -5.0, 1.0], dtype=f64)))
    for A in (few, matrix):
        found = eigmax(A, method="staged")
        assert found.value == eigmax(A).value
        assert found.searched == ""


def test_lanczos_takes_over_where_it_does_not_converge() -> None:
    H = hessian(network(), "cross_entropy", examples())
    found = eigmax(H, method="staged", rtol=1e-15)
    assert found.searched == ""
    assert found.value == pytest.approx(float(torch.linalg.eigvalsh(dense(H))[-1]), rel=1e-9)


def test_the_same_seed_gives_the_same_value() -> None:
    H = hessian(network(nn.ReLU), "cross_entropy", examples(), plain=True)
    first, second = (eigmax(H, method="staged", generator=seeded(3)) for _ in range(2))
    assert (first.value, first.products) == (second.value, second.products)


def test_the_plan_counts_fewer_products_only_where_it_applies() -> None:
    products = [
        plan(
            hessian(network(), "cross_entropy", examples(count)),
            trace=False,
            eigenvalues=1,
            staged=staged,
        ).products
        for count, staged in ((LEAST, 0), (LEAST, 1), (LEAST - 1, 1))
    ]
    assert products[1] < products[0] == products[2]


def test_an_example_of_huge_curvature_is_drawn() -> None:
    x, y = examples()
    x[7] *= 100
    H = hessian(network(nn.ReLU), "mse", (x, nn.functional.one_hot(y, 3).double()))
    for seed in range(8):
        drawn = torch.cat([part[0] for part in subsampled(H, 128, seeded(seed)).risk.batches])
        assert bool((drawn == x[7]).all(1).any())
    true = float(torch.linalg.eigvalsh(dense(H))[-1])
    assert eigmax(H, method="staged").value == pytest.approx(true, rel=1e-3)


def test_an_example_that_is_surely_wrong_is_drawn() -> None:
    """Its Λ is 0, so that it makes curvature by the functional Hessian alone."""
    model, (x, y) = network(nn.ReLU), examples()
    with torch.no_grad():
        model[2].weight.mul_(100)
        x[7] *= 20
        y = model(x).argmax(1)
        y[7] = model(x[7]).argmin()
        p = model(x[7]).softmax(0)
    assert float(p.max() * (1 - p.max())) < 1e-6
    H = hessian(model, "cross_entropy", (x, y))
    for seed in range(8):
        drawn = torch.cat([part[0] for part in subsampled(H, 128, seeded(seed)).risk.batches])
        assert bool((drawn == x[7]).all(1).any())


def test_looking_at_the_examples_leaves_the_weights_and_their_versions() -> None:
    model = network()
    H = hessian(model, "cross_entropy", examples())
    before = [(p.detach().clone(), p._version) for p in model.parameters()]
    subsampled(H, 128, seeded(0))
    for p, (value, version) in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, value)
        assert p._version == version
