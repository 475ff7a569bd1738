"""``test-images``: pictures that are drawn by arithmetic, for want of photographs that come with a package."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from maprobe.recipes import Corpus, Picture

__all__ = ["TEST_IMAGES"]

_COUNT = 8
_SIDE = 320
_FIGURES = 9  # shapes in front of the ground
_SEED = 20240227
_SLOPE = 1.1  # of the ground's amplitude over frequency; natural images have about 1


@cache
def _drawn() -> Sequence[Picture]:
    return tuple(Picture(name=f"picture {number + 1}", pixels=_picture(number)) for number in range(_COUNT))


def _picture(number: int) -> Any:  # noqa: ANN401 - an array
    """Draw one picture: a coloured ground whose amplitudes fall off as those of photographs, and shapes before it."""
    import numpy as np

    # RandomState, unlike default_rng, is promised to give the same numbers in every release of numpy.
    random = np.random.RandomState(_SEED + number)
    rows, columns = np.mgrid[0:_SIDE, 0:_SIDE] / _SIDE
    ground = _ground(random)
    low, high = random.uniform(0, 120, 3), random.uniform(120, 255, 3)
    canvas = low + (high - low) * ground[..., None]
    for _ in range(_FIGURES):
        canvas = _with_figure(canvas, rows, columns, random)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _ground(random: Any) -> Any:  # noqa: ANN401 - arrays
    """Return clouds from 0 to 1: noise whose amplitude is inverse to its frequency."""
    import numpy as np

    across, along = np.fft.fftfreq(_SIDE)[:, None], np.fft.fftfreq(_SIDE)[None, :]
    frequency = np.maximum(np.hypot(across, along), 1 / _SIDE)
    clouds = np.fft.ifft2(np.fft.fft2(random.standard_normal((_SIDE, _SIDE))) / frequency**_SLOPE).real
    return (clouds - clouds.min()) / (clouds.max() - clouds.min())


def _with_figure(canvas: Any, rows: Any, columns: Any, random: Any) -> Any:  # noqa: ANN401 - arrays
    """Put one ellipse or leaning box on the canvas: shaded along a direction, and striped one time in three."""
    import numpy as np

    top, left, angle = random.uniform(0.1, 0.9), random.uniform(0.1, 0.9), random.uniform(0, np.pi)
    height, width = random.uniform(0.04, 0.28, 2)
    along = (rows - top) * np.cos(angle) + (columns - left) * np.sin(angle)
    across = (columns - left) * np.cos(angle) - (rows - top) * np.sin(angle)
    reach = np.hypot(along / height, across / width)
    if random.uniform() < 1 / 2:
        reach = np.maximum(np.abs(along) / height, np.abs(across) / width)
    light = 1 + 0.5 * along / height
    if random.uniform() < 1 / 3:
        light = light * (1 + 0.4 * np.sign(np.sin(across * random.uniform(40, 160))))
    inside = np.clip((1 - reach) * min(height, width) * _SIDE + 0.5, 0, 1)[..., None]  # edges one pixel soft
    return canvas * (1 - inside) + random.uniform(0, 255, 3) * light[..., None] * inside


TEST_IMAGES = Corpus(
    name="test-images",
    summary="eight pictures drawn by arithmetic, shapes before clouds, which are no photographs (no network)",
    protocol="8 pictures of 320 x 320 pixels from fixed random numbers: noise whose amplitude falls off with frequency "
    "as that of photographs does, in two colours, and 9 shaded shapes before it; rounding may differ between "
    "machines, and the digest tells",
    load=_drawn,
    sequences="all",
    modality="image",
)
