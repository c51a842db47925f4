# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Waiting for conditions, on a clock that nobody sets (private to this collection)."""

from __future__ import annotations

import time
import typing as t

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError

FIRST_PAUSE = 0.02
LONGEST_PAUSE = 0.5
LONGEST_DRAIN = 24 * 3600
"""Seconds that a worker may take at most to drain."""


def pauses(first: float = FIRST_PAUSE, longest: float = LONGEST_PAUSE) -> t.Iterator[float]:
    """Yields seconds to wait between tries: short at first, never more than ``longest``."""
    pause = first
    while True:
        yield pause
        pause = min(pause * 1.5, longest)


def poll(condition: t.Callable[[], bool], timeout: float | None, longest_pause: float = LONGEST_PAUSE) -> bool:
    """Returns whether ``condition`` became true within ``timeout`` seconds; None waits as long as it takes."""
    deadline = None if timeout is None else time.monotonic() + timeout
    for pause in pauses(longest=longest_pause):
        if condition():
            return True
        left = pause if deadline is None else deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
    return False


def wait_for(condition: t.Callable[[], bool], timeout: float, what: str) -> None:
    """Waits for ``condition``. :raises DaskError: it wasn't true within ``timeout`` seconds."""
    if not poll(condition, timeout):
        raise DaskError("Waited {0:g} s for {1}, in vain.".format(timeout, what))
