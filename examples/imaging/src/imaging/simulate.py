# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The first stage: observes a known sky with a made-up interferometer, and writes the visibilities.

``python -m imaging.simulate --output DIRECTORY``; or, as a job, the function ``imaging.simulate:simulate``.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import dask.array as da
import numpy as np

from imaging.interferometer import ANTENNAS_PER_ARM, ARMS, BAND, LOWEST, baselines, elevation, measure
from imaging.sky import DEFAULT, read_sky
from imaging.stage import ImagingError, connected, output_directory, run, say, write_json
from imaging.visibilities import MOST_BYTES, NAME, Visibilities

TIMES_AT_ONCE = 16
CHANNELS_AT_ONCE = 8
"""What one task computes: not a matter of the cluster's size, as the noise is drawn for each of them."""
PAIRS = math.comb(ARMS * ANTENNAS_PER_ARM, 2)


def simulate(
    output: str,
    sky: str = "",
    hours: float = 6.0,
    times: int = 96,
    channels: int = 16,
    noise: float = 0.5,
    seed: int = 1,
    patience: float = 60.0,
) -> dict[str, object]:
    """Writes ``visibilities.npz`` and, for comparison, the sky as ``sky.json``; returns what was simulated.

    :param output: The directory, on the machine that this runs on.
    :param sky: A file like ``imaging/sky.json``, which is the default.
    :param hours: How long the observation takes, half of it before the centre culminates.
    :param times: How many times in it are measured.
    :param channels: How many frequencies.
    :param noise: Standard deviation of each real and of each imaginary part, in Jy.
    :param seed: The same seed gives the same noise.
    :param patience: Seconds to wait for the scheduler, and again for a worker.
    :raises ImagingError: something of this isn't possible.
    """
    _check(hours, times, channels, noise, seed)
    known = read_sky(Path(sky) if sky else DEFAULT)
    hour_angles = np.linspace(-hours / 2, hours / 2, times) * math.pi / 12
    lowest = float(elevation(known.centre.dec, hour_angles).min())
    if lowest < LOWEST:
        raise ImagingError(
            f"sky: centre.dec: {known.centre.dec:g} is refused: during {hours:g} hours it is down to {lowest:.0f} "
            f"degrees above the horizon. Allowed: at least {LOWEST:g}; observe for fewer hours, or farther south."
        )
    directory = output_directory(output)
    frequencies = np.linspace(*BAND, channels)
    with connected(patience):
        model = da.blockwise(
            measure,
            "tpf",
            da.from_array(hour_angles, chunks=TIMES_AT_ONCE),
            "t",
            da.from_array(frequencies, chunks=CHANNELS_AT_ONCE),
            "f",
            new_axes={"p": PAIRS},
            dtype=complex,
            sources=known.table(),
            declination=known.centre.dec,
        )
        generator = da.random.default_rng(seed)
        real, imaginary = (generator.normal(0, noise, model.shape, chunks=model.chunks) for _part in range(2))
        say(f"simulate {model.size} visibilities of {len(known.sources)} sources in {model.npartitions} parts")
        values = (model + real + 1j * imaginary).astype(np.complex64).compute()
    centre = np.array([known.centre.ra, known.centre.dec])
    write_json(directory / "sky.json", known.as_json())
    Visibilities(values, baselines(known.centre.dec, hour_angles), frequencies, centre).write(directory)
    say(f"wrote {directory / NAME}")
    return {"visibilities": int(values.size), "sources": len(known.sources), "noise": noise, "file": NAME}


def _check(hours: float, times: int, channels: int, noise: float, seed: int) -> None:
    most = MOST_BYTES // (PAIRS * np.dtype(np.complex64).itemsize)
    checks = {
        "hours": (hours, 0 < hours <= 12, "more than 0, at most 12"),
        "times": (times, times >= 1, "at least 1"),
        "channels": (channels, channels >= 1, "at least 1"),
        "times * channels": (times * channels, times * channels <= most, f"at most {most}, which is 50 MB"),
        "noise": (noise, 0 <= noise < math.inf, "a number of janskys, at least 0"),
        "seed": (seed, seed >= 0, "at least 0"),
    }
    for name, (value, good, allowed) in checks.items():
        if not good:
            raise ImagingError(f"{name}: {value:g} is refused. Allowed: {allowed}.")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="imaging.simulate", description="Simulate an interferometer on a cluster.")
    parser.add_argument("--output", required=True, metavar="DIRECTORY", help="where to write visibilities.npz")
    parser.add_argument("--sky", default="", metavar="FILE", help="centre and sources, as in imaging/sky.json")
    parser.add_argument("--hours", type=float, default=6.0, help="length of the observation (%(default)s)")
    parser.add_argument("--times", type=int, default=96, help="how many times to measure (%(default)s)")
    parser.add_argument("--channels", type=int, default=16, help="how many frequencies (%(default)s)")
    parser.add_argument("--noise", type=float, default=0.5, help="of each real and imaginary part, in Jy (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the noise (%(default)s)")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds to wait for a cluster (%(default)s)")
    run(simulate, parser)


if __name__ == "__main__":
    main()
