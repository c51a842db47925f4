# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""supervisor: a process is a program of a supervisord of the cluster's own (private to this collection)."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import typing as t
from concurrent.futures import ThreadPoolExecutor

from ansible_collections.flotilla.dask.plugins.module_utils._accounts import Account, start_time
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._files import read_text, write_text
from ansible_collections.flotilla.dask.plugins.module_utils._service import Launcher, Observed, Plan, run, runs_with
from ansible_collections.flotilla.dask.plugins.module_utils._wait import LONGEST_DRAIN, poll, wait_for

STARTING, STOPPING, BACKOFF = "STARTING", "STOPPING", "BACKOFF"
RUNNING = (STARTING, "RUNNING", BACKOFF, STOPPING)
SETTLE_SECONDS = 5.0
"""Longer than a program has to run for supervisor to take it for started."""
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


SHUTTING_DOWN = "SHUTDOWN_STATE"
"""What supervisorctl says of a daemon that is ending its programs, and then itself."""
STATUS = re.compile(r"(?P<name>[a-z0-9_-]+) +(?P<word>[A-Z]+)\b( +pid (?P<pid>[0-9]{1,10}),)?")
"""A line of 'supervisorctl status'."""


class State(t.NamedTuple):
    """What the daemon says of a program: its word for the state, and the number of the process, 0 without one."""

    word: str
    pid: int = 0


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
        states: dict[str, State] = {}

        def has_settled() -> bool:
            states.clear()
            states.update(self._states() or {})
            return not any(each.word == STARTING for each in states.values())

        poll(has_settled, SETTLE_SECONDS)  # supervisor names the process of a program only then
        paths = glob.glob(os.path.join(glob.escape(self.programs), self.kind + "*.conf"))
        on_disk = {os.path.basename(path)[: -len(".conf")] for path in paths}
        # A program without a file is what a removal left that was interrupted.
        names = sorted(on_disk | {name for name in states if name.startswith(self.kind)})
        return {name: self._observed(name, states.get(name, State("STOPPED"))) for name in names}

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
        if not set(os.listdir(self.programs)) - {os.path.basename(self._path(name)) for name in steps.remove}:
            # Before the last file goes, without which the next run would not look for a daemon.
            self._stop_daemon()
        for name in steps.remove:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(name))
        if self.outdated():
            self._stop_daemon()
            write_text(self.configuration, self.daemon_definition)
        if not os.listdir(self.programs):
            return
        if self._running() is None:
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

    def _observed(self, name: str, state: State) -> Observed:
        definition = read_text(self._path(name)) or ""
        running = state.word in RUNNING
        # Between two attempts to start it there is no process to ask: it may have failed with an older definition.
        known = runs_with(state.pid, definition) if state.pid else state.word != BACKOFF
        return Observed(definition=definition if known else "", running=running, stopping=state.word == STOPPING)

    def _stop_daemon(self) -> None:
        """Stops the daemon with all its programs, workers before their scheduler, and waits until it is gone."""
        running = self._running()
        if running is not None:
            said = self._control("pid").strip()
            process = int(said) if re.fullmatch("[0-9]{1,10}", said) else 0
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
        states = self._states()
        return None if states is None else {name: each.word for name, each in states.items() if each.word in RUNNING}

    def _states(self) -> dict[str, State] | None:
        """The states of all programs that the daemon knows, or None where no daemon runs."""
        if self.account is None or not os.path.exists(self.configuration):
            return None
        output = self._status()
        if SHUTTING_DOWN in output:  # as a run told it that was interrupted
            wait_for(lambda: SHUTTING_DOWN not in self._status(), LONGEST_STOP, "supervisord to stop")
            return None
        lines = [line for line in map(STATUS.match, output.splitlines()) if line]
        if not lines and ("no such file" in output or "refused" in output):
            return None
        return {line["name"]: State(line["word"], int(line["pid"] or 0)) for line in lines}

    def _status(self) -> str:
        try:
            return self._control("status", accept=(0, NOT_ALL_RUNNING, NO_DAEMON))
        except DaskError as error:
            if SHUTTING_DOWN in str(error):
                return SHUTTING_DOWN
            raise

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
