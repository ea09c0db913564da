"""Images corrupted in the nineteen ways of CIFAR-10-C (Hendrycks & Dietterich 2019).

The kinds and their constants are those of https://github.com/hendrycks/robustness; the code is
our own, so an image is like the published one in kind and strength, not pixel for pixel. `frost`
is synthesised where the published one takes photographs, and `spatter` takes the edges of its
drops from their outline.
"""

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from curvature.datasets.corruptions import blur, digital, noise, weather
from curvature.datasets.corruptions.fields import Images, Rngs

VERSION = 1  # raise it when an image changes: it is in the cache's key
SEVERITIES = (1, 2, 3, 4, 5)
SIZE = 32  # the constants are for images of 32×32

KINDS: dict[str, Callable[[Images, Rngs, int], Images]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": digital.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "spatter": weather.spatter,
    "saturate": digital.saturate,
}


def corrupt(
    images: np.ndarray, kind: str, severity: int, *, seed: int, indices: Sequence[int]
) -> np.ndarray:
    """Corrupt uint8 ``images`` (N, 32, 32, 3); a new array of the same form.

    What is drawn for an image depends on kind, severity, ``seed`` and the image's own entry of
    ``indices`` alone: it is the same in whichever selection the image comes.
    """
    if kind not in KINDS:
        raise ValueError(f"There is no corruption `{kind}`. There are {', '.join(KINDS)}.")
    if severity not in SEVERITIES:
        raise ValueError(f"A severity is 1, 2, 3, 4 or 5, not {severity!r}.")
    if images.shape[1:] != (SIZE, SIZE, 3) or images.dtype != np.uint8:
        raise ValueError(
            f"Expected bytes of shape (N, {SIZE}, {SIZE}, 3), for which the constants are made, "
            f"got {images.dtype} of shape {images.shape}."
        )
    if len(indices) != len(images):
        raise ValueError(f"{len(images)} images need as many `indices`, got {len(indices)}.")
    key = zlib.crc32(kind.encode())
    rngs = [np.random.default_rng([seed, key, severity, index]) for index in indices]
    corrupted = KINDS[kind](images.astype(np.float32) / np.float32(255), rngs, severity - 1)
    result: np.ndarray = np.rint(corrupted.clip(0, 1) * 255).astype(np.uint8)
    return result
