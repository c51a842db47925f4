# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""FITS images that know where in the sky they are."""

from __future__ import annotations

import math
from pathlib import Path

from astropy.io import fits
from astropy.wcs import WCS

from imaging.stage import written
from imaging.synthesis import Beam, Floats

CARDS = {"TELESCOP": "synthetic", "ORIGIN": "flotilla.dask, examples/imaging"}


def world(size: int, cell: float, centre: Floats) -> WCS:
    """Returns the coordinates of an image, in the projection that a Fourier transform of visibilities has.

    :param cell: The size of a pixel, in radians.
    :param centre: Right ascension and declination in degrees (ICRS).
    """
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crpix = [size / 2 + 1, size / 2 + 1]
    wcs.wcs.crval = centre
    wcs.wcs.cdelt = [-math.degrees(cell), math.degrees(cell)]
    wcs.wcs.radesys = "ICRS"
    return wcs


def write_fits(path: Path, image: Floats, unit: str, wcs: WCS, cell: float, beam: Beam | None) -> None:
    """Writes an image in single precision.

    :param unit: Of its values; empty for none.
    :param cell: The size of a pixel, in radians.
    :param beam: What a point source looks like in it, unless that is one pixel.
    """
    header = wcs.to_header()
    header.update(CARDS)
    if unit:
        header["BUNIT"] = unit
    if beam:
        major, minor, angle = beam.axes()
        header["BMAJ"] = (math.degrees(major * cell), "[deg] full width at half maximum")
        header["BMIN"] = (math.degrees(minor * cell), "[deg] full width at half maximum")
        header["BPA"] = (angle, "[deg] of the major axis, from north to east")
    with written(path) as part:
        fits.PrimaryHDU(image.astype(">f4"), header).writeto(part, overwrite=True)
