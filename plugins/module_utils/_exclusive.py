# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A lock file that says who holds it and since when (private to this collection).

The kernel lets go of the lock when its process ends, however it ends. So the lock of a dead run is free, and what its
file says is replaced.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
import time
import typing as t

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._files import opened_parent
from ansible_collections.flotilla.dask.plugins.module_utils._wait import pauses

LONGEST = 3600.0
"""Seconds after which a lock is taken for one that nobody lets go: longer than large packages take over a slow line."""

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MOST = 4096
"""Bytes that are read of what a lock file says."""


@contextlib.contextmanager
def exclusive(path: str, wait: float, what: str) -> t.Iterator[None]:
    """Holds the lock file ``path``, and waits up to ``wait`` seconds for whoever holds it.

    Whoever holds it may remove the file.

    :param what: What the lock is for, for the message.
    :raises DaskError: somebody held it all the time, or there is something else than a lock file.
    """
    until = time.monotonic() + wait
    for pause in pauses():
        descriptor = _open(path)
        try:
            if _lock(descriptor) and _is_at(descriptor, path):
                os.fchmod(descriptor, 0o600)  # what others can open, they can lock
                _say(descriptor)
                yield
                return
            if time.monotonic() >= until:
                raise DaskError(
                    "{0} is in use by another run: {1}. This run waited {2:.0f} seconds for it. Wait until that run "
                    "has ended, or end it, and run this again.".format(what, _holder(descriptor), wait)
                )
        finally:
            os.close(descriptor)
        time.sleep(pause)


def _open(path: str) -> int:
    with opened_parent(path) as (parent, name):
        try:
            return os.open(name, _FLAGS, 0o600, dir_fd=parent)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                raise
            raise DaskError("{0} is refused: it is not a regular file. Remove it.".format(path)) from error


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: str) -> bool:
    """Whether the file that was locked is still the one that others will open."""
    with opened_parent(path) as (parent, name):
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(name, dir_fd=parent, follow_symlinks=False))
        except FileNotFoundError:
            return False


def _say(descriptor: int) -> None:
    now = datetime.datetime.now(datetime.timezone.utc)
    words = {"process": os.getpid(), "host": socket.gethostname(), "since": "{0:%Y-%m-%d %H:%M:%S} UTC".format(now)}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(words).encode(), 0)


def _holder(descriptor: int) -> str:
    try:
        said = json.loads(os.pread(descriptor, _MOST, 0))
        return "process {process} on host {host}, since {since}".format(**said)
    except (ValueError, TypeError, LookupError):
        return "it has not said yet which one"
