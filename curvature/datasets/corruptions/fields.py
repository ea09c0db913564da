"""What several corruptions are made of: random fields, blurs and resampling of whole batches.

A batch is (N, H, W, …), float32 in [0, 1]; an image's numbers come from its own generator.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.float32]
Reals = npt.NDArray[Any]  # also float64, or indices
Rngs = Sequence[np.random.Generator]


def normal(rngs: Rngs, shape: tuple[int, ...]) -> Images:
    """A standard normal field for each image."""
    return np.stack([rng.standard_normal(shape, np.float32) for rng in rngs])


def uniform(rngs: Rngs, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> Images:
    """A uniform field for each image."""
    unit = np.stack([rng.random(shape, np.float32) for rng in rngs])
    return (low + (high - low) * unit).astype(np.float32)


def smooth(x: Images, sigma: float, *, mode: str = "nearest", truncate: float = 4.0) -> Images:
    """Gaussian blur of height and width."""
    from scipy.ndimage import gaussian_filter

    result: Images = gaussian_filter(x, sigma, mode=mode, truncate=truncate, axes=(1, 2))
    return result


def streak(x: Images, radius: int, sigma: float, degrees: Reals) -> Images:
    """Motion blur: a half Gaussian trailing in the direction of each image's angle."""
    height, width = x.shape[1:3]
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    image = np.arange(len(x))[:, None, None]
    direction = np.deg2rad(degrees)
    result = np.zeros_like(x)
    for step, weight in zip(steps, weights, strict=True):
        if weight < 1e-5:  # less than a hundredth of a grey level
            break
        down = np.rint(step * np.sin(direction)).astype(int)
        right = np.rint(step * np.cos(direction)).astype(int)
        rows = (np.arange(height) + down[:, None]).clip(0, height - 1)
        columns = (np.arange(width) + right[:, None]).clip(0, width - 1)
        result += np.float32(weight) * x[image, rows[:, :, None], columns[:, None, :]]
    return result


def zoomed(x: Images, factors: Sequence[float]) -> Images:
    """The mean over ``factors`` of the middle of the images, magnified to their size.

    Magnifying is linear and separable, hence a product with one matrix from either side.
    """
    result = np.zeros_like(x)
    planes = np.moveaxis(x, -1, 1)
    for factor in factors:
        M = _zoom_matrix(x.shape[1], factor)
        result += np.moveaxis(M @ planes @ M.T, 1, -1)
    return result / np.float32(len(factors))


def sampled(x: Images, rows: Reals, columns: Reals) -> Images:
    """Bilinear values at ``rows`` and ``columns`` (N, H, W); beyond the edge the mirror image."""
    height, width = x.shape[1:3]
    image = np.arange(len(x))[:, None, None]
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    down = (rows - top)[..., None].astype(np.float32)
    right = (columns - left)[..., None].astype(np.float32)
    up, low = _mirrored(top, height), _mirrored(top + 1, height)
    near, far = _mirrored(left, width), _mirrored(left + 1, width)
    above = x[image, up, near] * (1 - right) + x[image, up, far] * right
    below = x[image, low, near] * (1 - right) + x[image, low, far] * right
    result: Images = above * (1 - down) + below * down
    return result


def plasma(rngs: Rngs, size: int, decay: float) -> Images:
    """Cloudy fields in [0, 1] by the diamond–square algorithm on a torus, size a power of two.

    Each halving of the grid divides the random displacement's amplitude by ``decay`` squared.
    """
    field = np.zeros((len(rngs), size, size), np.float32)
    amplitude, step = 1.0, size
    while step > 1:
        half = step // 2
        corners = field[:, ::step, ::step]
        around = corners + np.roll(corners, -1, 1)
        around = around + np.roll(around, -1, 2)
        centres = around / 4 + uniform(rngs, around.shape[1:], -amplitude, amplitude)
        field[:, half::step, half::step] = centres
        for axis, rows, columns in (
            (1, slice(0, None, step), slice(half, None, step)),
            (2, slice(half, None, step), slice(0, None, step)),
        ):
            diamond = centres + np.roll(centres, 1, axis)
            diamond = diamond + corners + np.roll(corners, -1, 3 - axis)
            noise = uniform(rngs, diamond.shape[1:], -amplitude, amplitude)
            field[:, rows, columns] = diamond / 4 + noise
        amplitude /= decay**2
        step = half
    field -= field.min(axis=(1, 2), keepdims=True)
    field /= field.max(axis=(1, 2), keepdims=True)
    return field


def _zoom_matrix(size: int, factor: float) -> Images:
    """Rows: the weights by which an output pixel mixes the input's, along one side."""
    kept = int(np.ceil(size / factor))
    top = (size - kept) // 2
    grown = round(kept * factor)
    trim = (grown - size) // 2
    places = np.arange(trim, trim + size) * (kept - 1) / (grown - 1)
    tent = 1 - np.abs(places[:, None] - np.arange(kept))
    M = np.zeros((size, size), np.float32)
    M[:, top : top + kept] = tent.clip(0)
    return M


def _mirrored(index: Reals, size: int) -> Reals:
    """Indices beyond either edge reflected: …, 2, 1, 0, 1, 2, …."""
    index = np.abs(index) % (2 * size - 2)
    result: Reals = np.minimum(index, 2 * size - 2 - index)
    return result
