# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's half of one run at a time: what identifies a run, and the process that keeps its record alive.

That process belongs to no task: it ends with the run, and removes the record then, however the run ended. It is the
only way to tell a run whose controller was killed from one that works on other hosts for an hour.
"""

from __future__ import annotations

import contextlib
import getpass
import multiprocessing
import os
import select
import shlex
import signal
import socket
import time
import typing as t

from ansible import constants
from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.flotilla.dask.plugins.module_utils._digest import digest
from ansible_collections.flotilla.dask.plugins.module_utils._runs import RENEW_SECONDS, SILENT_SECONDS

OTHERS = 77
"""Exit status of what renews and removes a record where that is no longer this run's. Nothing else fails with it."""


def controller() -> int:
    """Returns the number of the process that is the run: this one, or the one that it is a worker of."""
    parent = multiprocessing.parent_process()
    return parent.pid or os.getpid() if parent else os.getpid()


def run_token() -> str:
    """Returns what identifies this run of Ansible: the same in all of its processes, and of no other run."""
    pid = controller()
    return digest([socket.gethostname(), constants.DEFAULT_LOCAL_TMP, pid, _started(pid)])


def run_holder() -> str:
    """Returns in words who runs this."""
    return "{0} on {1}, process {2}".format(getpass.getuser(), socket.gethostname(), controller())


def keep_alive(action: ActionBase, path: str, run: str) -> None:
    """Starts the process that renews the record of this run on the host of a task, and removes it in the end."""
    ended = _watch(controller())
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        if isinstance(ended, int):
            os.close(ended)
        return
    try:
        os.setsid()  # what is sent to the group of the run does not reach it
        if not os.fork():
            _detach(ended)
            _keep_alive(action, path, run, ended)
    finally:
        os._exit(0)


def _started(pid: int) -> str:
    """The kernel's word for when a process started; empty where it has none."""
    try:
        with open("/proc/{0}/stat".format(pid), encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _watch(pid: int) -> int | t.Callable[[], bool]:
    """Returns what tells that a process has ended: a descriptor that becomes readable, or a function that says it."""
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            return os.pidfd_open(pid)
    before = _started(pid)

    def has_ended() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return _started(pid) != before

    return has_ended


def _ends_within(ended: int | t.Callable[[], bool], seconds: float) -> bool:
    if isinstance(ended, int):
        return bool(select.select([ended], [], [], seconds)[0])
    end = time.monotonic() + seconds
    while not ended():
        if time.monotonic() > end:
            return False
        time.sleep(1)
    return True


def _detach(ended: int | t.Callable[[], bool]) -> None:
    """Lets go of what the run has open, so that nobody waits for this process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    kept = ended if isinstance(ended, int) else 2
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") < 65536 else 65536)
    display = Display()
    display._final_q = None  # which leads to the run
    display.verbosity = 0


def _keep_alive(action: ActionBase, path: str, run: str, ended: int | t.Callable[[], bool]) -> None:
    file, directory = shlex.quote(path), shlex.quote(os.path.dirname(path))
    ours = "test -e {0} && grep -qF {1} {0} || exit {2}; ".format(file, shlex.quote(run), OTHERS)
    while not _ends_within(ended, RENEW_SECONDS):
        if _command(action, "{0}touch -c {1}".format(ours, file)) == OTHERS:
            return
    # Where the host is not reached the next run would wait for this one, so that it is tried again.
    until = time.monotonic() + SILENT_SECONDS
    while _command(action, "{0}rm -f {1} && {{ rmdir {2} || true; }}".format(ours, file, directory)) not in (0, OTHERS):
        if time.monotonic() > until:
            return
        time.sleep(1)


def _command(action: ActionBase, command: str) -> int | None:
    """Returns the exit status of a command on the host; None where that was not reached."""
    try:
        return int(action._low_level_execute_command(command)["rc"])
    except (AnsibleError, OSError):
        return None
