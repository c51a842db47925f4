# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From visibilities to images: convolutional gridding, Fourier transform, CLEAN and restoration. All runs on workers.

Images have north up and east to the left, and their centre at pixel (size / 2, size / 2), as FITS images have it.
"""

from __future__ import annotations

import math
import typing as t
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imaging.interferometer import SPEED_OF_LIGHT

Floats = npt.NDArray[np.float64]

OVERSAMPLING = 1.25
"""What aliases at the edges of the grid stays outside this part of it."""
PADDING = 2 * OVERSAMPLING
"""The grid's size over the image's: twice that, for a point spread function that reaches from edge to edge."""
TAPS = 7
"""Cells, in each direction, over which a visibility is spread."""
STEEPNESS = 0.97 * math.pi * TAPS * (1 - 1 / (2 * OVERSAMPLING))
"""Barnett, Magland and af Klinteberg (2019), SIAM J. Sci. Comput. 41, C479, section 4."""
GAIN = 0.1
DEPTH = 4.0
"""CLEAN ends at this many times the noise."""
LOOK = 100
"""Iterations after which CLEAN looks at the noise again."""
DETECTION = 6.0
"""What is this many times the noise is a source,"""
DYNAMIC_RANGE = 1000.0
"""unless it is fainter than the brightest one by this: where there is hardly any noise, there is what CLEAN leaves."""
MAIN_LOBE = 0.5
"""The beam is fitted to where the point spread function is above this."""
WIDTHS = math.sqrt(8 * math.log(2))
"""Full width at half maximum over standard deviation."""
STEPS = 10
"""Of the fit of a source; it has long converged then."""
MAD = 1.4826
"""Standard deviation over median absolute deviation, of a normal distribution."""


def grid_size(size: int) -> int:
    """Returns how many cells the grid for an image has in each direction."""
    return round(PADDING * size)


def kernel(distance: Floats) -> Floats:
    """Returns by how much a visibility counts in a cell at a distance in cells."""
    inside = np.clip(1 - (2 * distance / TAPS) ** 2, 0, None)
    return np.asarray(np.exp(STEEPNESS * (np.sqrt(inside) - 1)))


def grid(values: npt.NDArray[t.Any], baselines: Floats, frequencies: Floats, cells: int, cell: float) -> t.Any:
    """Puts visibilities, and beside them ones in their places, onto a grid.

    :param values: Axes time, pair, frequency.
    :param baselines: In metres: axes time, pair, (u, v, w).
    :param cells: The grid's size in each direction.
    :param cell: The size of a pixel of the image, in radians.
    :returns: Axes time, frequency (both of length 1), visibilities or ones, row (v), column (-u).
    """
    scale = frequencies / SPEED_OF_LIGHT * cells * cell
    row = (baselines[..., 1, None] * scale + cells / 2).ravel()
    column = (-baselines[..., 0, None] * scale + cells / 2).ravel()
    first_row, first_column = np.ceil(row - TAPS / 2).astype(int), np.ceil(column - TAPS / 2).astype(int)
    taps = np.arange(TAPS)
    columns = first_column[:, None] + taps
    across = kernel(columns - column[:, None])
    flat = values.ravel()[:, None]
    sums = np.zeros((3, cells * cells))
    for tap in taps:
        weights = across * kernel(first_row + tap - row)[:, None]
        places = ((first_row + tap)[:, None] * cells + columns).ravel()
        for total, counted in zip(sums, (weights * flat.real, weights * flat.imag, weights)):
            total += np.bincount(places, counted.ravel(), cells * cells)
    both = np.stack([sums[0] + 1j * sums[1], sums[2]]).astype(np.complex64)
    return both.reshape(1, 1, 2, cells, cells)


def transform(grids: npt.NDArray[np.complex64], size: int, visibilities: int) -> tuple[Floats, Floats]:
    """Returns the dirty image (Jy/beam) and the point spread function, which is twice as wide and high.

    :param grids: The sum of what ``grid`` returned.
    """
    cells = grids.shape[-1]
    image, spread = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(grids, axes=(1, 2))), axes=(1, 2)).real
    offsets = np.arange(cells) - cells // 2
    distance = np.linspace(-TAPS / 2, TAPS / 2, 2001)
    taper = np.trapezoid(kernel(distance) * np.cos(2 * np.pi / cells * offsets[:, None] * distance), distance)
    correction = np.outer(taper, taper) * visibilities / cells**2
    return _middle(image, size) / _middle(correction, size), _middle(spread, 2 * size) / _middle(correction, 2 * size)


def _middle(image: Floats, size: int) -> Floats:
    edge = (len(image) - size) // 2
    return image[edge : edge + size, edge : edge + size]


@dataclass(frozen=True)
class Beam:
    """An elliptical Gaussian of height 1: exp(-(xx x^2 + 2 xy x y + yy y^2) / 2), in pixels."""

    xx: float
    xy: float
    yy: float

    def at(self, x: Floats, y: Floats) -> Floats:
        return np.asarray(np.exp(-(self.xx * x**2 + 2 * self.xy * x * y + self.yy * y**2) / 2))

    def axes(self) -> tuple[float, float, float]:
        """Returns both full widths at half maximum in pixels, and the greater's angle in degrees from north to east."""
        values, vectors = np.linalg.eigh([[self.xx, self.xy], [self.xy, self.yy]])
        x, y = vectors[:, 0]
        minor, major = sorted(WIDTHS / np.sqrt(values))
        return float(major), float(minor), math.degrees(math.atan2(-x, y)) % 180


def fit_beam(spread: Floats) -> Beam:
    """Returns the Gaussian that is most like the middle of a point spread function."""
    y, x = np.indices(spread.shape, float) - len(spread) // 2
    lobe = spread > MAIN_LOBE
    height, x, y = spread[lobe], x[lobe], y[lobe]
    terms = np.stack([x**2, 2 * x * y, y**2], axis=-1)
    # In the logarithm the error of a pixel is larger the fainter it is.
    solution = np.linalg.lstsq(terms * height[:, None], -2 * np.log(height) * height, rcond=None)[0]
    return Beam(*map(float, solution))


@dataclass(frozen=True)
class Detection:
    """A source in an image: its place in pixels, counted from 0, and its flux density in Jy."""

    x: float
    y: float
    flux: float


@dataclass(frozen=True)
class Images:
    """What the stage makes.

    :ivar noise: Standard deviation of the residual in Jy/beam.
    :ivar iterations: That CLEAN took.
    :ivar converged: Whether CLEAN went down to the noise.
    """

    dirty: Floats
    spread: Floats
    model: Floats
    restored: Floats
    beam: Beam
    noise: float
    iterations: int
    converged: bool
    detections: tuple[Detection, ...]


def make_images(grids: npt.NDArray[np.complex64], size: int, visibilities: int, iterations: int) -> Images:
    """Makes everything of the sum of what ``grid`` returned."""
    dirty, spread = transform(grids, size, visibilities)
    model, residual, done, converged = clean(dirty, spread, iterations)
    beam = fit_beam(spread)
    restored = residual + convolve(model, beam)
    noise = spread_of(residual)
    least = max(DETECTION * noise, float(restored.max()) / DYNAMIC_RANGE)
    found = tuple(find_sources(restored, beam, least))
    return Images(dirty, _middle(spread, size), model, restored, beam, noise, done, converged, found)


def spread_of(residual: Floats) -> float:
    """Returns the standard deviation of noise in which there may be some sources."""
    return MAD * float(np.median(np.abs(residual - np.median(residual))))


def clean(dirty: Floats, spread: Floats, iterations: int) -> tuple[Floats, Floats, int, bool]:
    """Takes point sources from an image until only noise is left (Högbom 1974, A&A Supplement 15, 417).

    :param spread: The point spread function, twice as wide and high as the image.
    :returns: The model in Jy/pixel, the residual, how many iterations it took, and whether they were enough.
    """
    size = len(dirty)
    model, residual = np.zeros_like(dirty), dirty.copy()
    threshold = 0.0
    for iteration in range(iterations):
        if iteration % LOOK == 0:
            threshold = DEPTH * spread_of(residual)
        y, x = divmod(int(np.abs(residual).argmax()), size)
        if abs(residual[y, x]) <= threshold:
            return model, residual, iteration, True
        flux = GAIN * residual[y, x]
        model[y, x] += flux
        residual -= flux * spread[size - y : 2 * size - y, size - x : 2 * size - x]
    return model, residual, iterations, False


def convolve(model: Floats, beam: Beam) -> Floats:
    """Returns what a model looks like through a beam, in Jy/beam."""
    wide = 2 * len(model)
    y, x = np.indices((wide, wide), float) - wide // 2
    shape = np.fft.rfft2(np.fft.ifftshift(beam.at(x, y)))
    blurred = np.fft.irfft2(np.fft.rfft2(model, (wide, wide)) * shape, (wide, wide))
    return np.asarray(blurred[: len(model), : len(model)])


def find_sources(restored: Floats, beam: Beam, least: float) -> t.Iterator[Detection]:
    """Finds the point sources above some flux density, the brightest first; of two within a beam only the brighter."""
    width = beam.axes()[0]
    reach = math.ceil(width / 2)
    inner = restored[reach:-reach, reach:-reach]
    bright = np.argwhere(inner > least)
    taken: list[tuple[int, int]] = []
    for row, column in (bright[np.argsort(-inner[tuple(bright.T)])] + reach).tolist():
        patch = restored[row - reach : row + reach + 1, column - reach : column + reach + 1]
        if patch.max() > restored[row, column] or any(math.dist((row, column), other) < width for other in taken):
            continue
        taken.append((row, column))
        yield _fit(patch, beam, column, row)


def _fit(patch: Floats, beam: Beam, column: int, row: int) -> Detection:
    """Fits the beam to a source's surroundings: place and height, by Gauss and Newton's method."""
    reach = len(patch) // 2
    y, x = np.indices(patch.shape, float) - reach
    right, up, flux = 0.0, 0.0, float(patch[reach, reach])
    for _step in range(STEPS):
        dx, dy = x - right, y - up
        shape = beam.at(dx, dy)
        slopes = (shape, flux * shape * (beam.xx * dx + beam.xy * dy), flux * shape * (beam.xy * dx + beam.yy * dy))
        matrix = np.stack([slope.ravel() for slope in slopes], axis=-1)
        change = np.linalg.lstsq(matrix, (patch - flux * shape).ravel(), rcond=None)[0]
        flux, right, up = (old + float(new) for old, new in zip((flux, right, up), change))
    return Detection(column + right, row + up, flux)
