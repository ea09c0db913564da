"""The nineteen corruptions: what each does to an image, and what its draws depend on."""

import io
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image

from curvature.datasets.corruptions import KINDS, SEVERITIES, corrupt
from curvature.datasets.corruptions.fields import plasma, sampled, streak, zoomed
from tests.datasets.test_cifar10 import write

GROWING = sorted(
    set(KINDS)
    - {"glass_blur", "motion_blur", "elastic_transform", "pixelate"}
    - {"saturate", "spatter", "frost"}
)
RANDOM = sorted(
    set(KINDS)
    - {"defocus_blur", "zoom_blur", "gaussian_blur", "brightness", "contrast", "pixelate"}
    - {"jpeg_compression", "saturate"}
)
for_each_kind = pytest.mark.parametrize("kind", KINDS)


def blobs(count: int = 6) -> np.ndarray:
    """Smooth colour images of high contrast with some sharp edges, as photographs have."""
    rng = np.random.default_rng(0)
    x = scipy.ndimage.gaussian_filter(rng.random((count, 32, 32, 3)), (0, 3, 3, 0), mode="wrap")
    x = (x - x.min()) / (x.max() - x.min())
    x[:, 8:20, 12:24] = 1 - x[:, 8:20, 12:24]
    return np.rint(x * 255).astype(np.uint8)


def applied(x: np.ndarray, kind: str, severity: int, *, seed: int = 0) -> np.ndarray:
    return corrupt(x, kind, severity, seed=seed, indices=range(len(x)))


def grey(level: int, count: int = 20) -> np.ndarray:
    return np.full((count, 32, 32, 3), level, np.uint8)


@for_each_kind
def test_bytes_go_in_and_bytes_come_out(kind: str) -> None:
    x = blobs()
    before = x.copy()
    for severity in SEVERITIES:
        y = applied(x, kind, severity)
        assert (y.dtype, y.shape) == (np.uint8, x.shape)
        assert (y != x).any()
    assert (x == before).all()


@for_each_kind
def test_an_image_is_the_same_in_whichever_selection_it_comes(kind: str) -> None:
    x = blobs()
    whole = corrupt(x, kind, 4, seed=0, indices=[10, 11, 12, 13, 14, 15])
    some = corrupt(x[[5, 2]], kind, 4, seed=0, indices=[15, 12])
    assert (some == whole[[5, 2]]).all()


@pytest.mark.parametrize("kind", RANDOM)
def test_seed_and_index_draw_the_corruption(kind: str) -> None:
    x = np.repeat(blobs(1), 2, axis=0)
    y = corrupt(x, kind, 5, seed=0, indices=[3, 4])
    assert (y[0] != y[1]).any()
    assert (corrupt(x, kind, 5, seed=1, indices=[3, 4])[0] != y[0]).any()
    assert (corrupt(x, kind, 5, seed=0, indices=[3, 4]) == y).all()


@pytest.mark.parametrize("kind", GROWING)
def test_a_higher_severity_is_farther_from_the_clean_image(kind: str) -> None:
    x = blobs(40)
    distances = [
        np.square(applied(x, kind, severity) - x.astype(float)).mean() for severity in SEVERITIES
    ]
    assert (np.diff(distances) > -0.03 * distances[0]).all(), distances
    assert distances[4] > 1.5 * distances[0]


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noises_have_the_published_strength(severity: int) -> None:
    x, light = grey(100), 100 / 255
    error = {
        kind: (applied(x, f"{kind}_noise", severity) / 255.0 - light).std()
        for kind in ("gaussian", "shot", "speckle")
    }
    level = severity - 1
    assert error["gaussian"] == pytest.approx([0.04, 0.06, 0.08, 0.09, 0.1][level], rel=0.02)
    assert error["shot"] == pytest.approx(np.sqrt(light / [500, 250, 100, 75, 50][level]), rel=0.02)
    assert error["speckle"] == pytest.approx(light * [0.06, 0.1, 0.12, 0.16, 0.2][level], rel=0.02)
    impulses = applied(x, "impulse_noise", severity)
    amount = [0.01, 0.02, 0.03, 0.05, 0.07][level]
    for extreme in (0, 255):
        assert (impulses == extreme).mean() == pytest.approx(amount / 2, rel=0.1)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_and_saturation_are_changed_in_hsv(severity: int) -> None:
    x = np.concatenate([blobs(), grey(0, 1), grey(90, 1)])
    hsv = rgb_to_hsv(x / 255.0)
    brighter = hsv.copy()
    brighter[..., 2] = (hsv[..., 2] + [0.05, 0.1, 0.15, 0.2, 0.3][severity - 1]).clip(0, 1)
    expected = hsv_to_rgb(brighter) * 255
    assert np.abs(applied(x, "brightness", severity) - expected).max() < 0.51
    factor, shift = [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)][severity - 1]
    saturated = hsv.copy()
    saturated[..., 1] = (hsv[..., 1] * factor + shift).clip(0, 1)
    assert np.abs(applied(x, "saturate", severity) - hsv_to_rgb(saturated) * 255).max() < 0.51


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.endswith("_blur")])
def test_blurs_leave_an_even_surface_alone(kind: str) -> None:
    for severity in SEVERITIES:
        assert (applied(grey(77, 2), kind, severity) == 77).all()


@pytest.mark.parametrize("factor", [1.05, 1.25, 1.75, 2.25])
def test_zooming_is_that_of_scipy(factor: float) -> None:
    x = blobs(1).astype(np.float32)
    kept = int(np.ceil(32 / factor))
    top = (32 - kept) // 2
    middle = x[0, top : top + kept, top : top + kept]
    grown = scipy.ndimage.zoom(middle, (factor, factor, 1), order=1)
    trim = (len(grown) - 32) // 2
    expected = grown[trim : trim + 32, trim : trim + 32]
    assert np.allclose(zoomed(x, [factor])[0], expected, atol=1e-3)


@pytest.mark.parametrize(("degrees", "step"), [(0, (0, -1)), (90, (-1, 0)), (-90, (1, 0))])
def test_a_dot_in_motion_leaves_a_streak(degrees: int, step: tuple[int, int]) -> None:
    x = np.zeros((1, 33, 33, 1), np.float32)
    x[0, 16, 16] = 1
    y = streak(x, 6, 2.0, np.array([degrees]))[0, :, :, 0]
    weights = np.exp(-(np.arange(13) ** 2) / 8)
    along = [y[16 + step[0] * i, 16 + step[1] * i] for i in range(8)]
    assert np.allclose(along, (weights / weights.sum())[:8], atol=1e-5)
    assert y.sum() == pytest.approx(1, abs=1e-4)


def test_a_slanted_motion_goes_along_the_diagonal() -> None:
    x = np.zeros((1, 33, 33, 1), np.float32)
    x[0, 16, 16] = 1
    assert np.trace(streak(x, 6, 2.0, np.array([45]))[0, :, :, 0]) == pytest.approx(1, abs=1e-4)


def test_sampling_is_bilinear_and_mirrors_beyond_the_edge() -> None:
    x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    rows, columns = np.array([[[0.0, 1.5, -1.0, 4.0]]]), np.array([[[0.25, 2.0, 0.0, 3.0]]])
    assert sampled(x, rows, columns)[0, 0, :, 0].tolist() == [0.25, 8.0, 4.0, 11.0]


def test_a_rougher_plasma_has_a_lower_decay() -> None:
    roughness: list[float] = []
    for decay in (1.5, 2.0, 3.0):
        field = plasma([np.random.default_rng(i) for i in range(20)], 32, decay)
        assert (field.min(), field.max()) == (0, 1)
        wrapped = np.roll(field, 1, axis=1) - field  # across the border as anywhere
        roughness.append(np.abs(wrapped).mean())
        assert np.abs(wrapped[:, 0]).mean() < 1.5 * roughness[-1]
    assert roughness[0] > 1.2 * roughness[1] > 1.44 * roughness[2]


def test_fog_keeps_the_brightest_light_below_what_it_was() -> None:
    x = blobs()
    assert (applied(x, "fog", 5).max(axis=(1, 2, 3)) <= x.max(axis=(1, 2, 3))).all()


@pytest.mark.parametrize(("kind", "severity"), [("snow", 1), ("snow", 3), ("spatter", 2)])
def test_snow_and_water_only_brighten(kind: str, severity: int) -> None:
    x = blobs()
    assert (applied(x, kind, severity) >= x).all()


def test_mud_covers_some_pixels_and_leaves_the_others_as_they_were() -> None:
    x = blobs(20)
    y = applied(x, "spatter", 5)
    muddy = (y != x).any(axis=-1)
    assert 0.005 < muddy.mean() < 0.3
    assert np.abs(y[muddy] - np.array([63.0, 42, 20])).mean() < 30


def test_elastic_of_the_first_severity_is_affine() -> None:
    ramp = np.arange(32) * 4 + 60
    x = np.broadcast_to(ramp[:, None, None], (5, 32, 32, 3)).astype(np.uint8)
    y = applied(x, "elastic_transform", 1)[:, 10:22, 10:22].astype(float)
    assert np.abs(np.diff(y, 2, axis=1)).max() <= 2  # of rounding to whole levels
    assert np.abs(np.diff(y, 2, axis=2)).max() <= 2
    assert np.abs(y - x[:, 10:22, 10:22]).max() > 4


@pytest.mark.parametrize(("severity", "pixels"), [(1, 30), (2, 28), (3, 27), (4, 24), (5, 20)])
def test_pixelated_images_have_so_many_pixels(severity: int, pixels: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    y = applied(noise, "pixelate", severity)[0]
    assert len(np.unique(y, axis=0)) == pixels == len(np.unique(y, axis=1)[0])


def test_jpeg_is_that_of_its_quality() -> None:
    x = blobs(1)
    for severity, quality in zip(SEVERITIES, (80, 65, 58, 50, 40), strict=True):
        file = io.BytesIO()
        Image.fromarray(x[0]).save(file, "JPEG", quality=quality)
        assert (applied(x, "jpeg_compression", severity)[0] == np.asarray(Image.open(file))).all()


@pytest.mark.parametrize(
    ("kind", "severity", "x", "message"),
    [
        ("rain", 1, blobs(1), "no corruption `rain`. There are gaussian_noise"),
        ("fog", 0, blobs(1), "1, 2, 3, 4 or 5, not 0"),
        ("fog", 1, blobs(1).astype(float), "got float64"),
        ("fog", 1, blobs(1).transpose(0, 3, 1, 2), r"got uint8 of shape \(1, 3, 32, 32\)"),
        ("fog", 1, blobs(2)[:, :28, :28], r"shape \(2, 28, 28, 3\)"),
    ],
)
def test_what_cannot_be_corrupted_is_refused(
    kind: str, severity: int, x: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        applied(x, kind, severity)


def test_images_need_their_indices() -> None:
    with pytest.raises(ValueError, match="2 images need as many `indices`, got 1"):
        corrupt(blobs(2), "fog", 1, seed=0, indices=[0])


def test_the_contact_sheet_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "binary")
    script = Path(__file__).parents[2] / "examples" / "corruption_sheet.py"
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path), str(tmp_path / "a.png"), "3"])
    runpy.run_path(str(script), run_name="__main__")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.height > 2 * picture.width
