# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Teardown leaves nothing, and a first deployment is predicted; the last tests, as there is no cluster after them."""

from __future__ import annotations

from testbed import Ansible, Hosts

TRACES = ("/opt/dask", "/etc/dask", "/var/lib/dask")


def traces(hosts: Hosts) -> dict[str, list[str]]:
    """The directories of clusters that are left, by host."""
    return {name: [path for path in TRACES if host.file(path).exists] for name, host in hosts.group("all").items()}


def test_teardown_ends_jobs_and_removes_everything(ansible: Ansible, hosts: Hosts) -> None:
    endless = {"name": "endless", "function": "time:sleep", "arguments": [3600], "state": "submitted"}
    assert ansible.module("scheduler", "flotilla.dask.dask_job", **endless)["scheduler"]["job"]["state"] == "running"

    run = ansible.playbook("flotilla.dask.teardown")
    assert run.ok, run.problems
    assert traces(hosts) == {"scheduler": [], "worker1": [], "worker2": []}
    for name, host in hosts.group("all").items():
        assert host.run("ls /etc/systemd/system | grep dask").stdout == "", name
        assert host.run("pgrep --full --list-full [d]istributed").stdout == "", name
        assert host.run("pgrep --full --list-full [r]unner.py").stdout == "", name
        assert not host.user("dask").exists, name

    again = ansible.playbook("flotilla.dask.teardown")
    assert (again.ok, again.changed) == (True, {}), again.problems


def test_check_mode_predicts_exactly_what_a_first_run_changes(ansible: Ansible, hosts: Hosts) -> None:
    predicted = ansible.playbook("flotilla.dask.site", "--check", "--diff")
    assert predicted.ok, predicted.problems
    assert traces(hosts) == {"scheduler": [], "worker1": [], "worker2": []}
    real = ansible.playbook("flotilla.dask.site", "--diff")
    assert real.ok, real.problems
    assert predicted.changed == real.changed
    roles = {task.partition(" : ")[0] for task in real.changed}
    assert roles == {f"flotilla.dask.dask_{role}" for role in ("certificates", "common", "environment")}
    removed = ansible.playbook("flotilla.dask.teardown")
    assert removed.ok, removed.problems
