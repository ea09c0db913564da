"""The five blurs of CIFAR-10-C."""

import numpy as np

from curvature.datasets.corruptions.fields import Images, Rngs, smooth, streak, uniform, zoomed

_ZOOMS = (6, 11, 16, 21, 26)  # factors 1, 1.01, 1.02, …


def defocus_blur(x: Images, rngs: Rngs, level: int) -> Images:
    """Every point a small disk, its edge softened."""
    from scipy.ndimage import correlate

    radius, softness = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[level]
    place = np.arange(-2, 3)
    disk = (place[:, None] ** 2 + place**2 <= radius**2).astype(np.float32)
    tap = np.exp(-(np.array([-1, 0, 1]) ** 2) / (2 * softness**2))
    softened = correlate(disk / disk.sum(), np.outer(tap, tap) / tap.sum() ** 2, mode="constant")
    result: Images = correlate(x, softened[None, :, :, None], mode="mirror")
    return result


def glass_blur(x: Images, rngs: Rngs, level: int) -> Images:
    """Blurred, pixels scattered by their neighbours', blurred again.

    A pixel takes its neighbour's colour without giving its own: so it is in the published
    images, whose code exchanges two views of one array.
    """
    sigma, reach, rounds = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))[
        level
    ]
    size = x.shape[1]
    x = smooth(x, sigma)
    walk = [(r, c) for r in range(size - reach, reach, -1) for c in range(size - reach, reach, -1)]
    shape = (rounds, len(walk), 2)
    moves = np.stack([rng.integers(-reach, reach, shape) for rng in rngs])
    image = np.arange(len(x))
    for turn in range(rounds):
        for step, (row, column) in enumerate(walk):
            down, right = moves[:, turn, step].T
            x[:, row, column] = x[image, row + down, column + right]
    return smooth(x, sigma)


def motion_blur(x: Images, rngs: Rngs, level: int) -> Images:
    """The camera moves, within 45° of sideways."""
    radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[level]
    return streak(x, int(radius), sigma, uniform(rngs, (), -45, 45))


def zoom_blur(x: Images, rngs: Rngs, level: int) -> Images:
    """The camera comes nearer: the mean of growing magnifications, and of the image itself."""
    count = _ZOOMS[level]
    zooms = zoomed(x, [1 + i / 100 for i in range(count)])
    return (x + count * zooms) / np.float32(count + 1)


def gaussian_blur(x: Images, rngs: Rngs, level: int) -> Images:
    """Normal blur."""
    return smooth(x, (0.4, 0.6, 0.7, 0.8, 1)[level])
