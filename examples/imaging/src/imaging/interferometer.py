# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A made-up interferometer: where its antennas are, how the turning earth moves its baselines, and what it measures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LATITUDE = -30.7
"""Degrees."""
LOWEST = 15.0
"""Degrees above the horizon to which the antennas can point."""
BAND = (1.3e9, 1.5e9)
"""Hz, the middles of the first and of the last channel."""
SPEED_OF_LIGHT = 299792458.0

ARMS, ANTENNAS_PER_ARM = 3, 7
INNERMOST, OUTERMOST = 200.0, 4000.0
"""Metres from the array's centre."""
TWIST = 2.2
"""Radians that an arm turns from its beginning to its end: a spiral covers more directions than a star."""
UNEVENNESS = 0.17
"""Radians by which an arm turns more than the one before, so that none repeats another's baselines."""


def antennas() -> Floats:
    """Returns the antennas' places, a row (east, north, up) in metres for each: logarithmic spirals on flat ground."""
    along = np.linspace(0, 1, ANTENNAS_PER_ARM)
    distance = INNERMOST * (OUTERMOST / INNERMOST) ** along
    angles = [2 * np.pi * arm / ARMS + (TWIST + UNEVENNESS * arm) * along for arm in range(ARMS)]
    arms = [np.stack([distance * np.sin(angle), distance * np.cos(angle), 0 * angle], axis=-1) for angle in angles]
    return np.concatenate(arms)


def elevation(declination: float, hour_angles: Floats) -> Floats:
    """Returns how many degrees above the horizon a declination (degrees) is at hour angles (radians)."""
    latitude, dec = np.radians((LATITUDE, declination))
    sine = np.sin(latitude) * np.sin(dec) + np.cos(latitude) * np.cos(dec) * np.cos(hour_angles)
    return np.asarray(np.degrees(np.arcsin(sine)))


def baselines(declination: float, hour_angles: Floats) -> Floats:
    """Returns every pair of antennas as seen from the source: axes time, pair, and (u, v, w) in metres.

    Thompson, Moran and Swenson, 3rd edition, equations 4.1 and 4.2: u is to the east, v to the north, w to the source.

    :param declination: Of the direction that the antennas point to, in degrees.
    :param hour_angles: Of that direction at each time, in radians.
    """
    latitude, dec = np.radians((LATITUDE, declination))
    east, north, up = antennas().T
    first, second = np.triu_indices(len(east), 1)
    meridian = -np.sin(latitude) * north + np.cos(latitude) * up
    pole = np.cos(latitude) * north + np.sin(latitude) * up
    x, y, z = (each[second] - each[first] for each in (meridian, east, pole))
    sin, cos = np.sin(hour_angles)[:, None], np.cos(hour_angles)[:, None]
    u = sin * x + cos * y
    v = -np.sin(dec) * cos * x + np.sin(dec) * sin * y + np.cos(dec) * z
    w = np.cos(dec) * cos * x - np.cos(dec) * sin * y + np.sin(dec) * z
    return np.stack([u, v, w], axis=-1)


def measure(
    hour_angles: Floats, frequencies: Floats, sources: Floats, declination: float
) -> npt.NDArray[np.complex128]:
    """Returns visibilities in Jy without noise: axes time, pair of antennas, frequency. Runs on a worker.

    :param frequencies: In Hz.
    :param sources: A row for each: l, m, n, flux in Jy.
    """
    seconds = baselines(declination, hour_angles) / SPEED_OF_LIGHT
    total = np.zeros((*seconds.shape[:2], len(frequencies)), complex)
    for east, north, ahead, flux in sources:
        delay = seconds @ np.array([east, north, ahead - 1])
        total += flux * np.exp(-2j * np.pi * delay[..., None] * frequencies)
    return total
