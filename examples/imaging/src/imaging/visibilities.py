# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The file between the stages: what an interferometer has measured."""

from __future__ import annotations

import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from imaging.stage import ImagingError, written

NAME = "visibilities.npz"
MOST_BYTES = 50_000_000
"""All of it passes through one process and the network."""


@dataclass(frozen=True)
class Visibilities:
    """What was measured of one direction.

    :ivar values: In Jy: axes time, pair of antennas, frequency.
    :ivar baselines: In metres: axes time, pair of antennas, (u, v, w).
    :ivar frequencies: In Hz.
    :ivar centre: Right ascension and declination in degrees (ICRS).
    """

    values: npt.NDArray[np.complex64]
    baselines: npt.NDArray[np.float64]
    frequencies: npt.NDArray[np.float64]
    centre: npt.NDArray[np.float64]

    def write(self, directory: Path) -> None:
        with written(directory / NAME) as part, part.open("wb") as file:
            np.savez(file, **asdict(self))


def read_visibilities(directory: str) -> Visibilities:
    """Reads what the stage ``simulate`` has written.

    :raises ImagingError: it isn't there, isn't complete, or isn't what it should be.
    """
    path = Path(directory, NAME)
    if not path.is_file():
        raise ImagingError(
            f"input: '{directory}' is refused: there is no {NAME}. Allowed: the output directory of imaging.simulate."
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            found = Visibilities(**{name: file[name] for name in Visibilities.__dataclass_fields__})
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ImagingError(f"input: {path} is refused: it cannot be read ({error}). Simulate it anew.") from error
    wrong = _fault(found)
    if wrong:
        raise ImagingError(f"input: {path} is refused: {wrong}. Simulate it anew.")
    return found


def _fault(found: Visibilities) -> str:
    """Returns what is wrong, or nothing."""
    if not found.values.size or found.values.ndim != 3:
        return f"it has no visibilities of times, pairs and frequencies (their shape is {found.values.shape})"
    times, pairs, channels = found.values.shape
    shapes = (found.baselines.shape, found.frequencies.shape, found.centre.shape)
    if shapes != ((times, pairs, 3), (channels,), (2,)):
        return f"its arrays don't belong together: visibilities {found.values.shape}, others {shapes}"
    if found.values.dtype.kind != "c" or any(each.dtype.kind != "f" for each in (found.baselines, found.frequencies)):
        return "visibilities have to be complex, baselines and frequencies real"
    if found.values.nbytes > MOST_BYTES:
        return f"it has {found.values.nbytes} bytes of visibilities, more than {MOST_BYTES}"
    if not all(np.isfinite(each).all() for each in (found.values, found.baselines, found.frequencies, found.centre)):
        return "it has values that aren't finite"
    if (found.frequencies <= 0).any():
        return "it has frequencies that aren't above 0"
    return ""
