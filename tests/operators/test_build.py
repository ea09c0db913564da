"""What is checked before a product is trusted."""

import pytest
import torch
from torch import nn

from curvature.operators import hessian


@pytest.mark.parametrize(("seed", "scale"), [(10, 8.0), (0, 8.0), (24, 8.0), (27, 6.0)])
def test_a_product_that_float32_rounds_away_is_not_called_asymmetric(
    seed: int, scale: float
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = (nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5))
        model = nn.Sequential(*sizes)
        x = torch.randn(8, 6) * 3
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(scale)
        labels = model(x).argmax(1)  # so sure of them that the loss is nearly 0
    H = hessian(model, "cross_entropy", [(x, labels)])
    assert bool((H @ torch.ones(H.size)).isfinite().all())
