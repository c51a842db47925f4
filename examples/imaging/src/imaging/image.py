# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The second stage: makes images of visibilities, and finds the sources in them.

``python -m imaging.image --input DIRECTORY --output DIRECTORY``; or, as a job, the function ``imaging.image:image``.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import dask
import dask.array as da
import numpy as np

from imaging.fits import world, write_fits
from imaging.interferometer import SPEED_OF_LIGHT
from imaging.picture import Mark, draw
from imaging.stage import ImagingError, connected, output_directory, run, say, write_json, written
from imaging.synthesis import Images, grid, grid_size, make_images
from imaging.visibilities import Visibilities, read_visibilities

TIMES_AT_ONCE = 16
CHANNELS_AT_ONCE = 8
SUMMED_AT_ONCE = 4
"""Grids that one task adds: no worker has to hold them all."""
SIZES = (64, 512)
"""Pixels. Workers need about 0.5 GB for the most, and more for more."""
PIXELS_PER_FRINGE = 4.0
FEWEST_PIXELS_PER_FRINGE = 2.5
"""Pixels in one period of the longest baseline's fringes; with fewer the beam has too few pixels to be fitted."""
MOST_TURN = 1.0
"""Radians that a phase may be wrong in the image's corners, as what w says of baselines and sky is neglected."""
ARCSECONDS = math.degrees(1) * 3600
"""In a radian."""


def image(
    visibilities: str, output: str, size: int = 256, cell: float = 0.0, iterations: int = 5000, patience: float = 60.0
) -> dict[str, object]:
    """Writes ``dirty.fits``, ``psf.fits``, ``model.fits``, ``restored.fits``, ``restored.png`` and, last,
    ``sources.json``; returns what is in that.

    :param visibilities: The directory in which ``simulate`` has written; both are on the machine that this runs on.
    :param output: The directory for the images.
    :param size: Pixels in each direction, a multiple of 4.
    :param cell: The size of a pixel in arcseconds; 0 for what suits the longest baseline.
    :param iterations: After which CLEAN ends though there is more than noise left.
    :param patience: Seconds to wait for the scheduler, and again for a worker.
    :raises ImagingError: something of this isn't possible.
    """
    if not SIZES[0] <= size <= SIZES[1] or size % 4:
        raise ImagingError(f"size: {size} is refused. Allowed: multiples of 4 from {SIZES[0]} to {SIZES[1]}.")
    if iterations < 1:
        raise ImagingError(f"iterations: {iterations} is refused. Allowed: at least 1.")
    measured = read_visibilities(visibilities)
    pixel = _pixel(measured, size, cell)
    directory = output_directory(output)
    with connected(patience):
        say(f"image {measured.values.size} visibilities in {size} x {size} pixels of {pixel * ARCSECONDS:.3g} arcsec")
        grids = _grids(measured, grid_size(size), pixel)
        made: Images = dask.delayed(make_images)(grids, size, measured.values.size, iterations).compute()
    enough = "" if made.converged else ", which were too few"
    say(f"{made.iterations} iterations of CLEAN{enough}; noise {made.noise * 1000:.3g} mJy/beam")
    found = _write(directory, made, measured, pixel)
    say(f"wrote {directory / 'sources.json'}: {len(made.detections)} sources")
    return found


def _pixel(measured: Visibilities, size: int, cell: float) -> float:
    """Returns the size of a pixel in radians. :raises ImagingError: images of these visibilities can't have such."""
    wavelengths = np.abs(measured.baselines).reshape(-1, 3) * measured.frequencies.max() / SPEED_OF_LIGHT
    longest = float(np.hypot(wavelengths[:, 0], wavelengths[:, 1]).max())
    if longest <= 0:
        raise ImagingError("input: the visibilities are refused: all antennas are in one place.")
    most = ARCSECONDS / (FEWEST_PIXELS_PER_FRINGE * longest)
    if cell and not 0 < cell <= most:
        raise ImagingError(
            f"cell: {cell:g} is refused. Allowed: more than 0, and at most {most:.3g} arcseconds for a baseline of "
            f"{longest:.0f} wavelengths."
        )
    pixel = cell / ARCSECONDS if cell else 1 / (PIXELS_PER_FRINGE * longest)
    # pi w (l^2 + m^2), in a corner.
    turn = math.pi * float(wavelengths[:, 2].max()) * 2 * (size * pixel / 2) ** 2
    if turn > MOST_TURN:
        raise ImagingError(
            f"size: {size} pixels of {pixel * ARCSECONDS:.3g} arcseconds are refused: the field is so wide that phases "
            f"in its corners are wrong by {turn:.1f} radians. Allowed: up to {MOST_TURN:g}; make fewer or smaller ones."
        )
    return pixel


def _grids(measured: Visibilities, cells: int, pixel: float) -> da.Array:
    """Returns the sum of the grids of all parts of the visibilities."""
    parts = (TIMES_AT_ONCE, -1, CHANNELS_AT_ONCE)
    grids = da.blockwise(
        grid,
        "tfiyx",
        da.from_array(measured.values, chunks=parts),
        "tpf",
        da.from_array(measured.baselines, chunks=(TIMES_AT_ONCE, -1, -1)),
        "tpk",
        da.from_array(measured.frequencies, chunks=CHANNELS_AT_ONCE),
        "f",
        new_axes={"i": 2, "y": cells, "x": cells},
        adjust_chunks={"t": lambda _times: 1, "f": lambda _channels: 1},
        concatenate=True,
        dtype=np.complex64,
        cells=cells,
        cell=pixel,
    )
    say(f"grid {grids.npartitions} parts")
    total: da.Array = grids.sum(axis=(0, 1), split_every=SUMMED_AT_ONCE)
    return total


def _write(directory: Path, made: Images, measured: Visibilities, pixel: float) -> dict[str, object]:
    """Writes all files; returns what is in the last one."""
    size = len(made.dirty)
    wcs = world(size, pixel, measured.centre)
    for name, content, unit, beam in (
        ("dirty", made.dirty, "Jy/beam", made.beam),
        ("psf", made.spread, "", made.beam),
        ("model", made.model, "Jy/pixel", None),
        ("restored", made.restored, "Jy/beam", made.beam),
    ):
        write_fits(directory / f"{name}.fits", content, unit, wcs, pixel, beam)
    marks = [Mark(each.x, each.y, f"{each.flux * 1000:.0f}") for each in made.detections]
    with written(directory / "restored.png") as part:
        draw(made.dirty, made.restored, made.beam, made.noise, pixel * ARCSECONDS, marks).save(part, "PNG")
    major, minor, angle = made.beam.axes()
    sources = []
    for each in made.detections:
        ra, dec = (float(value) for value in wcs.wcs_pix2world(each.x, each.y, 0))
        error = major * pixel * ARCSECONDS / 2 * made.noise / each.flux
        sources.append({"ra": ra, "dec": dec, "position_error": error, "flux": each.flux, "flux_error": made.noise})
    summary: dict[str, object] = {
        "centre": {"ra": float(measured.centre[0]), "dec": float(measured.centre[1])},
        "beam": {"major": major * pixel * ARCSECONDS, "minor": minor * pixel * ARCSECONDS, "angle": angle},
        "noise": made.noise,
        "iterations": made.iterations,
        "converged": made.converged,
        "sources": sources,
    }
    write_json(directory / "sources.json", summary)
    return summary


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="imaging.image", description="Make images of visibilities on a cluster.")
    parser.add_argument(
        "--input", dest="visibilities", required=True, metavar="DIRECTORY", help="where imaging.simulate has written"
    )
    parser.add_argument("--output", required=True, metavar="DIRECTORY", help="where to write the images")
    parser.add_argument("--size", type=int, default=256, help="pixels in each direction (%(default)s)")
    parser.add_argument("--cell", type=float, default=0.0, help="of a pixel, in arcsec (as the baselines want it)")
    parser.add_argument("--iterations", type=int, default=5000, help="of CLEAN, at most (%(default)s)")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds to wait for a cluster (%(default)s)")
    run(image, parser)


if __name__ == "__main__":
    main()
