"""Snow, frost, fog and spatter of CIFAR-10-C."""

import numpy as np

from curvature.datasets.corruptions.fields import (
    Images,
    Rngs,
    normal,
    plasma,
    smooth,
    streak,
    uniform,
    zoomed,
)

_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_ICE = np.array([0.85, 0.95, 1.0], np.float32)
_WATER = np.array([175, 238, 238], np.float32) / 255
_MUD = np.array([63, 42, 20], np.float32) / 255
_EMBOSS = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)


def snow(x: Images, rngs: Rngs, level: int) -> Images:
    """Flakes, magnified and driven by wind; the scene goes paler."""
    mean, deviation, zoom, threshold, radius, sigma, keep = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[level]
    flakes = mean + deviation * normal(rngs, (*x.shape[1:3], 1))
    flakes = zoomed(flakes, [zoom])
    flakes = np.where(flakes < threshold, 0, flakes).clip(0, 1).astype(np.float32)
    flakes = streak(flakes, int(radius), sigma, uniform(rngs, (), -135, -45))
    pale = np.maximum(x, (x @ _GREY)[..., None] * 1.5 + 0.5)
    return np.asarray(keep * x + (1 - keep) * pale + flakes + flakes[:, ::-1, ::-1], np.float32)


def frost(x: Images, rngs: Rngs, level: int) -> Images:
    """Ice on the pane, synthesised: ridges of a rough plasma, for the published photographs."""
    scene, ice = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[level]
    ridges = 1 - np.abs(2 * plasma(rngs, x.shape[1], 1.4) - 1)
    crystals = 0.25 + 0.75 * ridges**2
    return np.asarray(scene * x + ice * crystals[..., None] * _ICE, np.float32)


def fog(x: Images, rngs: Rngs, level: int) -> Images:
    """A plasma's cloud over the scene, whose brightest point stays as bright as it was."""
    amount, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[level]
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    cloud = plasma(rngs, x.shape[1], decay)[..., None]
    return np.asarray((x + amount * cloud) * brightest / (brightest + amount), np.float32)


def spatter(x: Images, rngs: Rngs, level: int) -> Images:
    """Drops of water on the lens (severities 1 to 3), or of mud."""
    mean, deviation, sigma, threshold, strength, mud = (
        (0.62, 0.1, 0.7, 0.7, 0.5, False),
        (0.65, 0.1, 0.8, 0.7, 0.5, False),
        (0.65, 0.3, 1, 0.69, 0.5, False),
        (0.65, 0.1, 0.7, 0.69, 0.6, True),
        (0.65, 0.1, 0.5, 0.68, 0.6, True),
    )[level]
    liquid = smooth(mean + deviation * normal(rngs, x.shape[1:3]), sigma)
    liquid = np.where(liquid < threshold, 0, liquid).astype(np.float32)
    if mud:
        mask = smooth((liquid > threshold).astype(np.float32), strength)
        mask = np.where(mask < 0.8, 0, mask)[..., None].astype(np.float32)
        return np.asarray(x * (1 - mask) + _MUD * mask, np.float32)
    shine = liquid * _embossed_depth(liquid)
    brightest = shine.max(axis=(1, 2), keepdims=True)
    shine *= strength / np.where(brightest > 0, brightest, 1)
    return np.asarray(x + shine[..., None] * _WATER, np.float32)


def _embossed_depth(liquid: Images) -> Images:
    """How far from a drop's outline, levelled in its histogram and lit from one side."""
    from scipy.ndimage import correlate, distance_transform_edt, maximum_filter, uniform_filter

    wet = liquid > 0
    outline = wet & maximum_filter(~wet, (1, 3, 3))
    # A pixel of the next image is too far away to be the nearest of this one's outline.
    distance = distance_transform_edt(~outline, sampling=(1e3, 1, 1)).clip(0, 20)
    levelled = _equalised(uniform_filter(distance, (0, 3, 3)).astype(np.uint8))
    lit = correlate(levelled, _EMBOSS[None], mode="mirror").clip(0, 255)
    result: Images = uniform_filter(lit, (0, 3, 3)).astype(np.float32)
    return result


def _equalised(depth: np.ndarray) -> Images:
    """Each image's levels replaced by how many pixels lie below, from 0 to 255."""
    result = np.empty(depth.shape, np.float32)
    for image, out in zip(depth, result, strict=True):
        counts = np.bincount(image.ravel(), minlength=256)
        below = counts.cumsum() - counts[image.min()]
        out[:] = (255 * below / max(below[-1], 1))[image]
    return result
