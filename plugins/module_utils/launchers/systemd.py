# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""systemd: a process is a system unit (private to this collection)."""

from __future__ import annotations

import glob
import os
import re
import typing as t

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._files import read_text, write_text
from ansible_collections.flotilla.dask.plugins.module_utils._service import (
    NO_UNIT,
    Launcher,
    Observed,
    Plan,
    run,
    runs_with,
    unit_states,
)

STOPPED = ("inactive", "failed")
STOPPING = "deactivating"
CREDENTIAL = "LoadCredential="
"""What a unit has for each secret."""
OLDEST_WITH_CREDENTIALS = 247


class Systemd(Launcher):
    """The units of one kind of one cluster: ``dask-CLUSTER-PROCESS.service``, one for each process.

    :param directory: Where the unit files are.
    """

    def __init__(self, directory: str, cluster: str, kind: str) -> None:
        self.directory = directory
        self.cluster = cluster
        self.kind = kind

    def observe(self) -> dict[str, Observed]:
        pattern = self._unit(self.kind + "*")
        paths = glob.glob(os.path.join(glob.escape(self.directory), pattern))
        on_disk = set(map(os.path.basename, paths))
        states = unit_states([*sorted(on_disk), pattern], "ActiveState", "UnitFileState", "NeedDaemonReload", "MainPID")
        # A unit without a file is what a removal left that was interrupted; one that only others name is not active.
        units = sorted(unit for unit, each in states.items() if unit in on_disk or each["ActiveState"] != "inactive")
        return {self._name(unit): self._observed(unit, states[unit]) for unit in units}

    def check(self, steps: Plan) -> None:
        if not any(CREDENTIAL in definition for definition in steps.write.values()):
            return
        said = run(["systemctl", "--version"])
        version = re.match(r"systemd (\d+)", said)
        if version is None or int(version[1]) < OLDEST_WITH_CREDENTIALS:
            raise DaskError(
                "dask_secrets and the secrets of groups are refused, as units cannot hand them on with {0!r}. "
                "Allowed: systemd {1} or newer, or dask_launcher supervisor.".format(
                    said.partition("\n")[0], OLDEST_WITH_CREDENTIALS
                )
            )

    def apply(self, steps: Plan) -> None:
        # Whatever this is interrupted between, the next run observes what is left to do: a file that systemd has not
        # read, a process that was started with another one, a unit that is not enabled or does not run.
        if steps.stop:
            run(["systemctl", "stop", *map(self._unit, steps.stop)])
        if steps == Plan(stop=steps.stop):
            return
        if steps.remove:
            run(["systemctl", "stop", *map(self._unit, steps.remove)], accept=(0, NO_UNIT))
        on_disk = [name for name in steps.remove if os.path.lexists(self._path(name))]
        if on_disk:
            run(["systemctl", "disable", *map(self._unit, on_disk)])
        for name in on_disk:
            os.unlink(self._path(name))
        for name, definition in steps.write.items():
            write_text(self._path(name), definition)
        run(["systemctl", "daemon-reload"])
        if steps.remove:
            run(["systemctl", "reset-failed", *map(self._unit, steps.remove)], accept=(0, 1))
        if steps.enable:
            run(["systemctl", "enable", *map(self._unit, steps.enable)])
        # All that stops does so before anything starts, as one may take over the other's ports.
        if steps.restart:
            run(["systemctl", "stop", *map(self._unit, steps.restart)])
        if steps.restart or steps.start:
            run(["systemctl", "start", *map(self._unit, (*steps.restart, *steps.start))])

    def _observed(self, unit: str, state: t.Mapping[str, str]) -> Observed:
        definition = read_text(os.path.join(self.directory, unit)) or ""
        pid = int(state.get("MainPID") or 0)
        is_read = state.get("NeedDaemonReload") != "yes"
        return Observed(
            definition=definition if is_read and (not pid or runs_with(pid, definition)) else "",
            running=state["ActiveState"] not in STOPPED,
            stopping=state["ActiveState"] == STOPPING,
            enabled=state.get("UnitFileState") == "enabled",
        )

    def _name(self, unit: str) -> str:
        start, end = self._unit("*").split("*")
        return unit[len(start) : -len(end)]

    def _unit(self, name: str) -> str:
        return "dask-{0}-{1}.service".format(self.cluster, name)

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, self._unit(name))
