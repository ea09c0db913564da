"""Brightness, contrast, saturation, elastic deformation, pixelation and JPEG of CIFAR-10-C."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from curvature.datasets.corruptions.fields import Images, Rngs, sampled, smooth, uniform


def brightness(x: Images, rngs: Rngs, level: int) -> Images:
    """More of the V of HSV; hue and saturation stay, so the channels grow in proportion."""
    value = x.max(axis=-1, keepdims=True)
    brighter = (value + (0.05, 0.1, 0.15, 0.2, 0.3)[level]).clip(0, 1)
    grown = np.where(value > 0, x * brighter / np.where(value > 0, value, 1), brighter)
    return np.asarray(grown, np.float32)


def saturate(x: Images, rngs: Rngs, level: int) -> Images:
    """Less (severities 1 and 2) or more of the S of HSV; grey counts as a red of no saturation."""
    factor, shift = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))[level]
    value = x.max(axis=-1, keepdims=True)
    spread = value - x.min(axis=-1, keepdims=True)
    saturation = spread / np.where(value > 0, value, 1)
    lacking = np.where(spread > 0, (value - x) / np.where(spread > 0, spread, 1), (0.0, 1.0, 1.0))
    saturated = (saturation * factor + shift).clip(0, 1)
    return np.asarray(value * (1 - saturated * lacking), np.float32)


def contrast(x: Images, rngs: Rngs, level: int) -> Images:
    """Nearer to each channel's mean."""
    means = x.mean(axis=(1, 2), keepdims=True)
    return np.asarray(means + (0.75, 0.5, 0.4, 0.3, 0.15)[level] * (x - means), np.float32)


def elastic_transform(x: Images, rngs: Rngs, level: int) -> Images:
    """A random affine map, then displacements by a smooth random field (Simard et al. 2003)."""
    size = x.shape[1]
    reach, sigma, stretch = (
        (0, 0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )[level]
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    corners = np.array([[1, 1], [1, -1], [-1, -1]]) * (size // 3) + size // 2
    moved = corners + uniform(rngs, (3, 2), -stretch * size, stretch * size)
    # The map back, from the moved corners to where they were, as a (3, 2) matrix.
    A = np.linalg.solve(np.concatenate([moved, np.ones((len(x), 3, 1))], axis=2), corners[None])
    places = np.stack([rows, columns, np.ones_like(rows)], axis=-1)
    source = np.einsum("hwi,nij->jnhw", places, A)
    x = sampled(x, source[0], source[1])
    if reach == 0:
        return x
    fields = [
        reach
        * size
        * smooth(uniform(rngs, x.shape[1:3], -1, 1), sigma * size, mode="reflect", truncate=3)
        for _ in range(2)
    ]
    return sampled(x, rows + fields[0], columns + fields[1])


def pixelate(x: Images, rngs: Rngs, level: int) -> Images:
    """Fewer pixels, each the mean of those it stands for."""
    from PIL import Image

    size = x.shape[1]
    fewer = int(size * (0.95, 0.9, 0.85, 0.75, 0.65)[level])
    box = Image.Resampling.BOX
    small = (Image.fromarray(image).resize((fewer, fewer), box) for image in _bytes(x))
    return _floats([image.resize((size, size), box) for image in small])


def jpeg_compression(x: Images, rngs: Rngs, level: int) -> Images:
    """Through JPEG at a low quality."""
    from PIL import Image

    results = []
    for image in _bytes(x):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=(80, 65, 58, 50, 40)[level])
        results.append(Image.open(file))
    return _floats(results)


def _bytes(x: Images) -> np.ndarray:
    return np.rint(x * 255).astype(np.uint8)


def _floats(images: Sequence[Any]) -> Images:
    return np.stack([np.asarray(image) for image in images]).astype(np.float32) / np.float32(255)
