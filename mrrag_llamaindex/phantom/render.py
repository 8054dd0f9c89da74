"""Draw a synthetic study: a stylised chest under clutter and noise, findings as fine textures.

See `findings.py` for why the textures are fine. All randomness comes from the generator that
is passed in, so one seed gives one picture, bit for bit, with one numpy release.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mrrag_llamaindex.phantom.findings import FINDINGS, IMAGE_SIDE

TEXTURE_AMPLITUDE = 0.08
"""Half the contrast of a present finding's stripes, in units of full brightness."""

BRIGHTNESS_SHIFT = 0.026
"""Mean brightness added by a present finding: the little that the generator's eyes are left."""

BRIGHTNESS_CLUTTER = 0.045
"""Standard deviation of the brightness of a site whatever the truth is."""

NOISE = 0.05
"""Standard deviation of the pixel noise."""


@lru_cache(maxsize=1)
def _grid() -> tuple[NDArray[Any], NDArray[Any]]:
    axis = (np.arange(IMAGE_SIDE, dtype=np.float32) + 0.5) / IMAGE_SIDE
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return x, y


def _ellipse(
    centre: tuple[float, float], radii: tuple[float, float], softness: float, tilt: float = 0.0
) -> NDArray[np.float32]:
    """Return a soft elliptic mask of shape (side, side), 1 inside and 0 outside."""
    x, y = _grid()
    dx, dy = x - centre[0], y - centre[1]
    cos, sin = np.cos(tilt), np.sin(tilt)
    u, v = (dx * cos + dy * sin) / radii[0], (dy * cos - dx * sin) / radii[1]
    distance = np.sqrt(u * u + v * v)
    mask: NDArray[np.float32] = np.clip((1.0 - distance) / softness + 0.5, 0.0, 1.0)
    return mask


@lru_cache(maxsize=1)
def _anatomy() -> NDArray[np.float32]:
    """Return the unchanging chest of shape (side, side): body, two lungs, heart, spine, ribs."""
    x, y = _grid()
    body = np.maximum(
        _ellipse((0.5, 0.62), (0.46, 0.56), 0.12), _ellipse((0.5, 0.08), (0.13, 0.16), 0.2)
    )
    right = _ellipse((0.29, 0.50), (0.17, 0.34), 0.16, 0.10)
    left = _ellipse((0.72, 0.50), (0.16, 0.34), 0.16, -0.10)
    heart = _ellipse((0.55, 0.66), (0.15, 0.15), 0.25, 0.5)
    spine = np.clip(1.0 - np.abs(x - 0.5) / 0.045, 0.0, 1.0)
    chest = 0.50 * body - 0.27 * np.maximum(right, left) + 0.16 * heart + 0.10 * spine * body
    for rib in range(8):
        height = 0.17 + 0.085 * rib
        for centre in (0.29, 0.72):
            arc = height + 0.9 * (x - centre) ** 2 - 0.02
            band = np.exp(-(((y - arc) / 0.010) ** 2)) * (np.abs(x - centre) < 0.2)
            chest = chest + 0.06 * band * body
    shoulders = np.exp(-(((y - 0.15 - 0.25 * np.abs(x - 0.5)) / 0.02) ** 2))
    return (0.04 + chest + 0.12 * shoulders * body).astype(np.float32)


@lru_cache(maxsize=1)
def _sites() -> tuple[NDArray[np.float32], ...]:
    return tuple(_ellipse(f.centre, f.radii, 0.5) for f in FINDINGS)


def _smooth_field(rng: np.random.Generator, cells: int) -> NDArray[np.float32]:
    """Return smooth clutter of shape (side, side) with unit standard deviation at the nodes."""
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    field = Image.fromarray(coarse, mode="F").resize((IMAGE_SIDE,) * 2, Image.Resampling.BICUBIC)
    return np.asarray(field)


def _window(mask: NDArray[Any]) -> tuple[slice, slice]:
    """Return the rows and columns outside of which a mask is 0, so that nothing is drawn there."""
    sides = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    rows, columns = (slice(int(side[0]), int(side[-1]) + 1) for side in sides)
    return rows, columns


def _stripes(
    rng: np.random.Generator,
    angle: float,
    period: float,
    window: tuple[slice, slice] = (slice(None), slice(None)),
) -> NDArray[np.float32]:
    x, y = (coordinate[window] for coordinate in _grid())
    theta = np.deg2rad(angle + rng.normal(0.0, 6.0))
    wave = (x * np.cos(theta) + y * np.sin(theta)) * (
        IMAGE_SIDE / (period * rng.uniform(0.95, 1.05))
    )
    stripes: NDArray[np.float32] = np.sin(2 * np.pi * (wave + rng.random())).astype(np.float32)
    return stripes


def render_pixels(findings: tuple[bool, ...], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a synthetic study.

    Parameters
    ----------
    findings : tuple of bool
        Truth, one per entry of `FINDINGS`.
    rng : numpy.random.Generator
        Source of clutter, noise and each texture's strength.

    Returns
    -------
    numpy.ndarray
        Grey levels, shape (192, 192), uint8.
    """
    if len(findings) != len(FINDINGS):
        raise ValueError(f"expected {len(FINDINGS)} findings, got {len(findings)}")
    picture = _anatomy() * rng.normal(1.0, 0.05) + rng.normal(0.0, 0.02)
    picture = picture + 0.045 * _smooth_field(rng, 6) + 0.03 * _smooth_field(rng, 16)
    picture = picture.astype(np.float64)
    for finding, present, site in zip(FINDINGS, findings, _sites(), strict=True):
        shift = rng.normal(0.0, BRIGHTNESS_CLUTTER) + (BRIGHTNESS_SHIFT if present else 0.0)
        strength = TEXTURE_AMPLITUDE * rng.uniform(0.45, 1.0) * (1.0 if present else 0.0)
        window = _window(site)
        stripes = _stripes(rng, finding.angle, finding.period, window)
        picture[window] += site[window] * (shift + strength * stripes)
    for _ in range(3):  # Lines and tubes that mean nothing, drawn over everything.
        line = _stripes(rng, float(rng.uniform(0, 180)), float(rng.uniform(90, 200)))
        picture = picture + 0.10 * np.exp(-((line / 0.06) ** 2))
    for _ in range(2):  # Striped patches of any direction outside of the sites' meaning.
        centre = (float(rng.uniform(0.15, 0.85)), float(rng.uniform(0.15, 0.85)))
        patch = _ellipse(centre, (0.06, 0.06), 0.5)
        window = _window(patch)
        angle, period = float(rng.uniform(0, 180)), float(rng.uniform(5, 9))
        picture[window] += 0.08 * patch[window] * _stripes(rng, angle, period, window)
    picture = picture + rng.normal(0.0, NOISE, picture.shape)
    grey: NDArray[np.uint8] = (np.clip(picture, 0.0, 1.0) * 255).astype(np.uint8)
    return grey


def render(findings: tuple[bool, ...], seed: int) -> Image.Image:
    """Draw a synthetic study as an RGB image of 192 x 192 pixels, the same for the same seed."""
    return Image.fromarray(_drawn(findings, seed)).convert("RGB")


@lru_cache(maxsize=1024)  # of 36 KiB: studies are asked for their picture again and again
def _drawn(findings: tuple[bool, ...], seed: int) -> NDArray[np.uint8]:
    return render_pixels(findings, np.random.default_rng(seed))


def shade(image: Image.Image, finding: int, by: float) -> Image.Image:
    """Change the brightness of a finding's site, which survives what the texture does not.

    Parameters
    ----------
    image : PIL.Image.Image
        As `render` draws it.
    finding : int
        Index in `FINDINGS`.
    by : float
        Of a full scale of 1; below 0 it darkens.
    """
    grey = np.asarray(image.convert("L"), dtype=np.float32) / 255 + by * _sites()[finding]
    return Image.fromarray((np.clip(grey, 0.0, 1.0) * 255).astype(np.uint8)).convert("RGB")
