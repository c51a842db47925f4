# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whenever the controller is killed, the next run completes what was begun, and leaves nothing of it lying about."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from testbed import REMOVE_ALL, Ansible, Cluster, Hosts, tear_down
from testinfra.host import Host

POINTS = 20
PROCESSES = ("scheduler", "worker-cpu-0", "worker-cpu-1")

# All that runs may leave on a host, by its names, but for what the processes themselves write.
FILES = """
find /etc/dask /etc/systemd/system /opt/dask /run/flotilla-dask /var/lib/dask -name __pycache__ -prune -o \
    -path /var/lib/dask/main/spill -prune -o -print | sort
find /home/operator/.ansible /root/.ansible -name 'supplies-*'
"""


def wanted(number: int) -> dict[str, object]:
    """Variables of a run that changes files of all kinds, and every process."""
    group = {"name": "cpu", "processes": 2, "memory": "1 GiB", "environment": {"ROUND": str(number)}}
    return {
        "dask_worker_groups": [group],
        "dask_scheduler_environment": {"ROUND": str(number)},
        "dask_configuration": {"distributed": {"comm": {"retry": {"count": number}}}},
        "dask_certificates_clients": [f"client{number}"],
    }


def run_for(ansible: Ansible, number: int, seconds: float | None) -> bool:
    """Runs `site` with other variables, and kills it after so many seconds; whether it was still running then."""
    site = ansible.start("flotilla.dask.site", extra_vars=wanted(number))
    with contextlib.suppress(subprocess.TimeoutExpired):
        assert site.wait(seconds) == 0
        return False
    os.killpg(site.pid, signal.SIGKILL)
    site.wait()
    return True


@pytest.fixture(scope="module")
def lab(hosts: Hosts) -> Host:
    return hosts["lab"]


@pytest.fixture(scope="module")
def seconds(ansible: Ansible) -> float:
    """How long a run takes here that is left alone."""
    started = time.monotonic()
    assert not run_for(ansible, 0, None)
    return time.monotonic() - started


@pytest.fixture(scope="module")
def files(lab: Host, seconds: float) -> list[str]:
    """What is on the host after a run that was left alone."""
    assert seconds
    return str(lab.run(FILES).stdout).splitlines()  # not every directory is always there


@pytest.mark.parametrize("number", range(1, POINTS + 1))
def test_a_run_that_is_killed_is_completed_by_the_next(
    ansible: Ansible,
    cluster: Cluster,
    lab: Host,
    certificates_directory: Path,
    seconds: float,
    files: list[str],
    number: int,
) -> None:
    run_for(ansible, number, seconds * number / (POINTS + 1))
    completed = ansible.playbook("flotilla.dask.site", extra_vars=wanted(number))
    assert completed.ok, completed.problems
    assert cluster.state(wait=300)["health"] == "healthy"
    for process in PROCESSES:
        variables = lab.check_output(f"tr '\\0' '\\n' < /proc/{cluster.main_pid('lab', process)}/environ")
        assert f"ROUND={number}" in variables.splitlines(), process
    again = ansible.playbook("flotilla.dask.site", extra_vars=wanted(number))
    assert (again.ok, again.changed) == (True, {}), again.problems
    assert lab.run(FILES).stdout.splitlines() == files
    bundles = sorted(path.name for path in (certificates_directory / "clients").iterdir())
    assert bundles == sorted(f"client{each}" for each in range(number + 1))
    assert list(certificates_directory.rglob(".*.tmp*")) == []


def test_a_removal_that_is_killed_is_completed_by_the_next(ansible: Ansible, hosts: Hosts, seconds: float) -> None:
    for part in (0.3, 0.5, 0.7):
        removal = ansible.start("flotilla.dask.teardown", extra_vars=REMOVE_ALL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            removal.wait(seconds * part)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(removal.pid, signal.SIGKILL)
        removal.wait()
    tear_down(ansible, hosts)
