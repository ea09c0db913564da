"""The four noises of CIFAR-10-C."""

import numpy as np

from curvature.datasets.corruptions.fields import Images, Rngs, normal, uniform


def gaussian_noise(x: Images, rngs: Rngs, level: int) -> Images:
    """Added normal noise, as in poor light."""
    return x + (0.04, 0.06, 0.08, 0.09, 0.10)[level] * normal(rngs, x.shape[1:])


def shot_noise(x: Images, rngs: Rngs, level: int) -> Images:
    """Poisson noise: light comes in grains."""
    grains = (500, 250, 100, 75, 50)[level]
    counts = [rng.poisson(image * grains) for image, rng in zip(x, rngs, strict=True)]
    return np.stack(counts).astype(np.float32) / np.float32(grains)


def impulse_noise(x: Images, rngs: Rngs, level: int) -> Images:
    """Salt and pepper, in each channel by itself."""
    amount = (0.01, 0.02, 0.03, 0.05, 0.07)[level]
    u = uniform(rngs, x.shape[1:])
    return np.where(u < amount / 2, 0, np.where(u < amount, 1, x)).astype(np.float32)


def speckle_noise(x: Images, rngs: Rngs, level: int) -> Images:
    """Normal noise in proportion to the light."""
    return x + x * (0.06, 0.1, 0.12, 0.16, 0.2)[level] * normal(rngs, x.shape[1:])
