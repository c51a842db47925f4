# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which kinds of processes a host has is seen by the definitions that the launchers themselves write."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils._accounts import this_account
from ansible_collections.flotilla.dask.plugins.module_utils.launch.layout import layout
from ansible_collections.flotilla.dask.plugins.module_utils.launchers import UNITS, kinds_here
from ansible_collections.flotilla.dask.plugins.module_utils.launchers.docker import Docker
from ansible_collections.flotilla.dask.plugins.module_utils.launchers.supervisor import Supervisor
from ansible_collections.flotilla.dask.plugins.module_utils.launchers.swarm import Swarm
from ansible_collections.flotilla.dask.plugins.module_utils.launchers.systemd import Systemd
from ansible_collections.flotilla.dask.plugins.modules import dask_processes

LAUNCHERS: dict[str, t.Callable[[dict[str, t.Any], str], t.Callable[[str], str]]] = {
    "systemd": lambda _place, units: Systemd(units, "main", "worker")._path,
    "supervisor": lambda place, _units: Supervisor(place, "worker", this_account())._path,
    "docker": lambda place, _units: Docker(place, "main", "worker")._path,
    "swarm": lambda place, _units: Swarm(place, "main", "worker").stack.path,
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_host_has_the_kinds_that_its_launcher_has_definitions_of(launcher: str, tmp_path: Path) -> None:
    place = layout("main", "user", str(tmp_path / "[home] {0}"), "").as_dict()
    units = tmp_path / "units"
    path_of = LAUNCHERS[launcher](place, str(units))

    def kinds(cluster: str = "main") -> list[str]:
        return kinds_here(place["configuration"], cluster, str(units))

    assert kinds() == []
    for name, expected in (("scheduler", ["scheduler"]), ("worker-cpu-0", ["worker", "scheduler"])):
        path = Path(path_of(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        assert kinds() == expected
    if launcher == "systemd":  # whose units are those of all clusters
        assert kinds("other") == []


def test_units_are_looked_for_where_they_are_written() -> None:
    assert UNITS == dask_processes.UNIT_DIRECTORY
