# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""supervisor: a process is a program of a supervisord of the cluster's own (private to this collection)."""

from __future__ import annotations

import glob
import os
import typing as t
from concurrent.futures import ThreadPoolExecutor

from ansible_collections.flotilla.dask.plugins.module_utils._accounts import Account, start_time
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._files import read_text, write_text
from ansible_collections.flotilla.dask.plugins.module_utils._service import Launcher, Observed, Plan, run
from ansible_collections.flotilla.dask.plugins.module_utils._wait import LONGEST_DRAIN, wait_for

STOPPING = "STOPPING"
RUNNING = ("STARTING", "RUNNING", "BACKOFF", STOPPING)
NO_DAEMON = 4
"""supervisorctl's exit status where nothing answers on the socket (LSB: status unknown)."""
NOT_ALL_RUNNING = 3
START_SECONDS = 30
STOP_SECONDS = 120
LONGEST_STOP = LONGEST_DRAIN + STOP_SECONDS
STOPS_AT_ONCE = 32
SCHEDULER = "scheduler"
CONTROL_SECONDS = 60.0
INHERITED = ("HOME", "LANG", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER")


class Supervisor(Launcher):
    """The programs of one kind of one cluster, one file for each process beside the daemon's configuration.

    :param directories: The plan's directories.
    :param daemon_definition: The daemon's configuration as it should be; empty leaves it as it is.
    :param account: Whose daemon it is. It writes to that account's directories and answers on a socket there, so nobody
        else runs it or speaks to it. None before there is such an account, when nothing runs.
    """

    def __init__(
        self, directories: t.Mapping[str, str], kind: str, account: Account | None, daemon_definition: str = ""
    ) -> None:
        self.account = account
        self.kind = kind
        self.daemon_definition = daemon_definition
        self.configuration = os.path.join(directories["configuration"], "supervisord.conf")
        self.programs = os.path.join(directories["configuration"], "supervisor.d")
        self.logs = directories["logs"]
        self.commands = os.path.join(directories["bootstrap"], "bin")

    def outdated(self) -> bool:
        return bool(self.daemon_definition) and read_text(self.configuration) != self.daemon_definition

    def observe(self) -> dict[str, Observed]:
        states = self._running() or {}
        paths = glob.glob(os.path.join(glob.escape(self.programs), self.kind + "*.conf"))
        names = sorted(os.path.basename(path)[: -len(".conf")] for path in paths)
        return {
            name: Observed(
                definition=read_text(self._path(name)) or "",
                running=name in states,
                stopping=states.get(name) == STOPPING,
            )
            for name in names
        }

    def apply(self, steps: Plan) -> None:
        # What drains does so at the same time, where supervisor would stop one after the other.
        self._stop(*steps.stop, *steps.restart, *steps.remove)
        if steps == Plan(stop=steps.stop):
            return
        os.makedirs(self.programs, exist_ok=True)
        account = self._account()
        account.run(lambda: os.makedirs(self.logs, exist_ok=True))
        for name, definition in steps.write.items():
            write_text(self._path(name), definition)
        for name in steps.remove:
            os.unlink(self._path(name))
        if self.outdated():
            self._stop_daemon()
            write_text(self.configuration, self.daemon_definition)
        if not os.listdir(self.programs):
            self._stop_daemon()
        elif self._running() is None:
            run(
                [os.path.join(self.commands, "supervisord"), "-c", self.configuration],
                environment=_plain(account.environment()),
                account=account,
            )
            wait_for(lambda: self._running() is not None, START_SECONDS, "supervisord to answer")
        else:
            # Stops what was removed, restarts what changed, starts what is new, and leaves the rest alone.
            self._control("update")
            running = self._running() or {}
            stopped = [name for name in (*steps.start, *steps.restart) if name not in running]
            if stopped:
                self._control("start", *stopped)

    def _stop_daemon(self) -> None:
        """Stops the daemon with all its programs, workers before their scheduler, and waits until it is gone."""
        running = self._running()
        if running is not None:
            said = self._control("pid").strip()
            process = int(said) if said.isdigit() else 0
            started = start_time(process)
            self._stop(*(name for name in running if name != SCHEDULER))
            self._control("shutdown")
            wait_for(lambda: start_time(process) != started or started is None, STOP_SECONDS, "supervisord to stop")

    def _stop(self, *names: str) -> None:
        """Stops those that run of some programs at once, and waits until they have."""
        if not names:
            return
        states = self._running() or {}
        to_stop = [name for name in names if states.get(name, STOPPING) != STOPPING]
        with ThreadPoolExecutor(STOPS_AT_ONCE) as pool:
            list(pool.map(lambda name: self._control("stop", name), to_stop))
        # Those that somebody else had begun to stop; supervisor ends them itself when their time is over.
        wait_for(
            lambda: not set(names) & set(self._running() or {}), LONGEST_STOP, "supervisor to stop " + ", ".join(names)
        )

    def _path(self, name: str) -> str:
        return os.path.join(self.programs, name + ".conf")

    def _running(self) -> dict[str, str] | None:
        """The states of the programs that run or are being stopped, or None where no daemon does."""
        if self.account is None or not os.path.exists(self.configuration):
            return None
        output = self._control("status", accept=(0, NOT_ALL_RUNNING, NO_DAEMON))
        words = [line.split() for line in output.splitlines()]
        states = {line[0]: line[1] for line in words if len(line) > 1 and line[1].isupper()}
        if not states and ("no such file" in output or "refused" in output):
            return None
        return {name: state for name, state in states.items() if state in RUNNING}

    def _control(self, *words: str, accept: tuple[int, ...] = (0,)) -> str:
        return run(
            [os.path.join(self.commands, "supervisorctl"), "-c", self.configuration, *words],
            accept,
            account=self._account(),
            seconds=CONTROL_SECONDS if words[0] == "status" else LONGEST_STOP,
        )

    def _account(self) -> Account:
        """:raises DaskError: it is gone."""
        if self.account is None:
            raise DaskError("The account that the cluster runs as is gone. Run flotilla.dask.site, which makes it.")
        return self.account


def _plain(variables: t.Mapping[str, str]) -> dict[str, str]:
    """What a process gets from its user and not from the shell that happened to start the daemon, as under systemd."""
    return {name: variables[name] for name in INHERITED if name in variables}
