"""The residual blocks' shortcut without parameters."""

import torch

from curvature.models.resnet import PadChannels
from tests.conftest import seeded


def test_shortcut_a_takes_every_second_pixel_and_pads_with_zeros() -> None:
    x = torch.randn(1, 3, 5, 4, generator=seeded(0))
    y = PadChannels(3, 6)(x)
    assert y.shape == (1, 6, 3, 2)
    assert torch.equal(y[0, 1:4, 2, 1], x[0, :, 4, 2])
    assert not y[0, [0, 4, 5]].any()
