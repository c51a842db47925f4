# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A sky of point sources, and where a source is relative to the direction that the telescope points to."""

from __future__ import annotations

import json
import math
import typing as t
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from imaging.stage import ImagingError

DEFAULT = Path(__file__).with_name("sky.json")
WIDEST = 1.0
"""Degrees from the centre within which sources may be."""

ALLOWED = {
    "ra": "a number of degrees from 0 to less than 360",
    "dec": "a number of degrees from -90 to 90",
    "flux": "a number of janskys above 0",
}


@dataclass(frozen=True)
class Direction:
    """A direction in the sky: right ascension and declination in degrees (ICRS)."""

    ra: float
    dec: float

    def cosines(self, centre: Direction) -> tuple[float, float, float]:
        """Returns ``l`` (to the east), ``m`` (to the north) and ``n`` relative to a centre.

        Thompson, Moran and Swenson, Interferometry and Synthesis in Radio Astronomy, 3rd edition, equation 3.9 ff.
        """
        east = math.radians(self.ra - centre.ra)
        dec, dec0 = math.radians(self.dec), math.radians(centre.dec)
        return (
            math.cos(dec) * math.sin(east),
            math.sin(dec) * math.cos(dec0) - math.cos(dec) * math.sin(dec0) * math.cos(east),
            math.sin(dec) * math.sin(dec0) + math.cos(dec) * math.cos(dec0) * math.cos(east),
        )


@dataclass(frozen=True)
class Source:
    """A point source. :ivar flux: Its flux density in Jy, the same at all frequencies."""

    name: str
    ra: float
    dec: float
    flux: float

    @property
    def direction(self) -> Direction:
        return Direction(self.ra, self.dec)


@dataclass(frozen=True)
class Sky:
    centre: Direction
    sources: tuple[Source, ...]

    def table(self) -> npt.NDArray[np.float64]:
        """Returns a row for each source: l, m, n, flux."""
        return np.array([(*source.direction.cosines(self.centre), source.flux) for source in self.sources])

    def as_json(self) -> dict[str, t.Any]:
        return asdict(self)


def read_sky(path: Path) -> Sky:
    """Reads a sky from a file such as ``sky.json`` in this directory.

    :raises ImagingError: it isn't there or isn't a sky; says which entry, and what is allowed.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ImagingError(f"sky: '{path}' is refused: {error.strerror}.") from error
    except ValueError as error:
        raise ImagingError(f"sky: '{path}' is refused: it isn't JSON ({error}).") from error
    sky = _mapping(content, "the sky", {"centre", "sources"})
    centre = _mapping(sky["centre"], "centre", {"ra", "dec"})
    entries = sky["sources"]
    if not isinstance(entries, list) or not entries:
        raise ImagingError("sky: sources is refused: it has to be a list of at least one source.")
    pointing = Direction(_number(centre, "ra", "centre"), _number(centre, "dec", "centre"))
    sources = tuple(_source(entry, f"sources[{index}]", pointing) for index, entry in enumerate(entries))
    names = [source.name for source in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ImagingError(f"sky: sources is refused: more than one is called {', '.join(twice)}.")
    return Sky(pointing, sources)


def _source(entry: object, where: str, centre: Direction) -> Source:
    values = _mapping(entry, where, {"name", "ra", "dec", "flux"})
    if not isinstance(values["name"], str) or not values["name"]:
        raise ImagingError(f"sky: {where}.name: {values['name']!r} is refused. Allowed: a name.")
    source = Source(values["name"], *(_number(values, key, where) for key in ("ra", "dec", "flux")))
    if source.direction.cosines(centre)[2] < math.cos(math.radians(WIDEST)):
        raise ImagingError(f"sky: {where} is refused: it is more than {WIDEST:g} degree from the centre.")
    return source


def _mapping(value: object, where: str, keys: set[str]) -> dict[str, t.Any]:
    if not isinstance(value, dict) or set(value) != keys:
        said = f"has {', '.join(map(str, sorted(value))) or 'nothing'}" if isinstance(value, dict) else "is no mapping"
        raise ImagingError(f"sky: {where} is refused: it {said}. Allowed: exactly {', '.join(sorted(keys))}.")
    return value


def _number(values: dict[str, t.Any], key: str, where: str) -> float:
    value = values[key]
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not {"ra": 0 <= value < 360, "dec": -90 <= value <= 90, "flux": value > 0}[key]:
        raise ImagingError(f"sky: {where}.{key}: {value!r} is refused. Allowed: {ALLOWED[key]}.")
    return float(value)
