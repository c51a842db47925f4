# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""systemd: a process is a system unit (private to this collection)."""

from __future__ import annotations

import glob
import os

from ansible_collections.flotilla.dask.plugins.module_utils._files import read_text, write_text
from ansible_collections.flotilla.dask.plugins.module_utils._service import Launcher, Observed, Plan, run, unit_states

STOPPED = ("inactive", "failed")
STOPPING = "deactivating"


class Systemd(Launcher):
    """The units of one kind of one cluster: ``dask-CLUSTER-PROCESS.service``, one for each process.

    :param directory: Where the unit files are.
    """

    def __init__(self, directory: str, cluster: str, kind: str) -> None:
        self.directory = directory
        self.cluster = cluster
        self.kind = kind

    def observe(self) -> dict[str, Observed]:
        paths = glob.glob(os.path.join(glob.escape(self.directory), self._unit(self.kind + "*")))
        start, end = self._unit("*").split("*")
        names = sorted(os.path.basename(path)[len(start) : -len(end)] for path in paths)
        states = dict(zip(names, unit_states(list(map(self._unit, names)), "ActiveState", "UnitFileState")))
        return {
            name: Observed(
                definition=read_text(self._path(name)) or "",
                running=states[name].get("ActiveState") not in STOPPED,
                stopping=states[name].get("ActiveState") == STOPPING,
                enabled=states[name].get("UnitFileState") == "enabled",
            )
            for name in names
        }

    def apply(self, steps: Plan) -> None:
        if steps.stop:
            run(["systemctl", "stop", *map(self._unit, steps.stop)])
        if steps.remove:
            run(["systemctl", "disable", "--now", *map(self._unit, steps.remove)])
            for name in steps.remove:
                os.unlink(self._path(name))
        for name, definition in steps.write.items():
            write_text(self._path(name), definition)
        if steps.write or steps.remove:
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

    def _unit(self, name: str) -> str:
        return "dask-{0}-{1}.service".format(self.cluster, name)

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, self._unit(name))
