# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One run of Ansible at a time changes a cluster (private to this collection).

The record of the run that does lies on the scheduler's host, in a directory that only this account writes to. The time
of the file is the last sign of life of the run, which its controller renews; when the run ends, however it ends, the
controller removes the file. The record of a controller that is gone loses its force by itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
import typing as t

from ansible_collections.flotilla.dask.plugins.module_utils._digest import digest
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._files import make_directory, read_text, write_text
from ansible_collections.flotilla.dask.plugins.module_utils._wait import poll

SYSTEM_DIRECTORY = "/run/flotilla-dask"
USER_DIRECTORY = ".cache/flotilla-dask"
"""Below the home directory of a user who is not root."""

RENEW_SECONDS = 10
"""How often the controller gives a sign of life."""
SILENT_SECONDS = 60
"""After how many seconds without one a run is taken for dead: after several that were late."""
JUST_ENDED_SECONDS = 5
"""How long a run is waited for in any case: its controller may be about to remove the record."""

Record = t.Dict[str, str]


def record_path(cluster: str, configuration: str, user_directory: str) -> str:
    """Returns where the record of the run that changes a cluster is.

    :param configuration: The cluster's directory of configuration: clusters of one name may have several homes.
    """
    directory = SYSTEM_DIRECTORY if os.geteuid() == 0 else os.path.join(user_directory, USER_DIRECTORY)
    return os.path.join(directory, "{0}-{1}.json".format(cluster, digest(configuration)))


def other_run(path: str, run: str) -> Record | None:
    """Returns the record of another run that lives, or None.

    :param run: What identifies this run.
    """
    try:
        age = time.time() - os.stat(path, follow_symlinks=False).st_mtime
        record = json.loads(read_text(path) or "{}")
    except (FileNotFoundError, ValueError, RecursionError, DaskError):  # what is no record holds nobody up
        return None
    if not isinstance(record, dict) or not record.get("run"):
        return None
    return None if record["run"] == run or abs(age) > SILENT_SECONDS else record


def become_the_only_run(path: str, cluster: str, run: str, holder: str, wait: float) -> None:
    """Has this run be the one that changes the cluster, until its controller removes the record.

    :param holder: Who runs it, in words.
    :param wait: For how many seconds another run is waited for.
    :raises DaskError: another run changes the cluster.
    """
    found: list[Record] = []

    def is_taken() -> bool:
        found[:] = filter(None, [_take(path, run, holder)])
        return not found

    if not poll(is_taken, max(wait, JUST_ENDED_SECONDS)):
        raise DaskError(
            "This run is refused: {0} Allowed: one run at a time. Run this again when that one has ended, or set "
            "dask_run_wait_seconds, now {1:g}, to how many seconds to wait for it. If its controller is gone, it is "
            "taken for dead {2} s after its last sign of life.".format(
                in_words(found[0], cluster), wait, SILENT_SECONDS
            )
        )


def in_words(record: Record, cluster: str) -> str:
    """Returns who changes a cluster, and since when."""
    return "another run has been changing the cluster '{0}' since {1}: that of {2}.".format(
        cluster, record.get("since"), record.get("holder")
    )


def _take(path: str, run: str, holder: str) -> Record | None:
    """Writes the record of this run, or returns that of another one."""
    directory = os.path.dirname(path)
    while True:
        make_directory(directory, 0o700, take={os.geteuid()})
        with contextlib.suppress(FileNotFoundError), _locked(directory):
            other = other_run(path, run)
            if other is None:
                since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
                write_text(path, json.dumps({"run": run, "holder": holder, "since": since}), 0o600)
            return other


@contextlib.contextmanager
def _locked(directory: str) -> t.Iterator[None]:
    """Holds a directory, which other runs of this account look into one after the other.

    :raises FileNotFoundError: it was removed meanwhile, by the run that ended.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not os.path.samestat(os.fstat(descriptor), os.stat(directory)):
            raise FileNotFoundError(directory)
        yield
    finally:
        os.close(descriptor)
