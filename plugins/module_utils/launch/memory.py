# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sizes of memory, read as Dask reads them.

Source of the rules: ``dask.utils.parse_bytes`` and ``distributed.worker_memory.parse_memory_limit`` (2026.8), against
which the tests compare. Private to this collection.
"""

from __future__ import annotations

import math
import re
import typing as t

MINIMUM_PER_PROCESS = 64 * 2**20
"""Bytes. A worker process with less than this only pauses and restarts."""

ALLOWED = (
    "a size with a unit such as '16 GB' or '8 GiB', a number of bytes, or a fraction of the host's memory such as 0.5"
)

_SIZE = re.compile(r"(?P<number>([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?) *(?P<unit>[a-zA-Z]*)")

_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgtp", start=1):
    _UNITS[_letter] = _UNITS[_letter + "b"] = 1000**_power
    _UNITS[_letter + "i"] = _UNITS[_letter + "ib"] = 1024**_power


def parse_memory(value: t.Any, host_memory: int | None = None) -> int:
    """Returns the bytes that Dask takes ``value`` to mean.

    :param value: A size ("16 GB"; GB is 10**9, GiB is 2**30), a number of bytes, or a number up to 1: a fraction of
        ``host_memory``.
    :param host_memory: The host's memory in bytes, needed for a fraction only.
    :raises ValueError: ``value`` isn't a size, isn't positive, or is a fraction and the host's memory isn't known.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("not a size")
    match = _SIZE.fullmatch(str(value).strip(" "))
    if not match:
        raise ValueError("not a size")
    unit = match["unit"].lower()
    if unit not in _UNITS:
        raise ValueError("no unit {0!r}".format(match["unit"]))
    number = float(match["number"])
    if not math.isfinite(number * _UNITS[unit]):
        raise ValueError("not a finite size")
    if not unit and 0 < number <= 1:
        if host_memory is None:
            raise ValueError("a fraction, and the host's memory is not known")
        number *= host_memory
    size = int(number * _UNITS[unit])
    if size <= 0:
        raise ValueError("not a positive size")
    return size


def share(memory: int, processes: int) -> int:
    """Returns the bytes for each of ``processes`` processes; together never more than ``memory`` bytes."""
    return memory // processes


def human(size: int) -> str:
    """Returns ``size`` bytes in words, e.g. ``512.0 MiB``."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return "{0:.4g} {1}".format(amount, unit)
        amount /= 1024
    return "{0:.4g} TiB".format(amount)
