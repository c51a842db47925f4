# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services have few rights and limits, and stop without losing what they hold."""

from __future__ import annotations

from typing import Any

import pytest
from testbed import Ansible, Cluster, Hosts, Scattered, wait_until

EXPOSURE = 2.0

# A task that takes more memory than the limit of its unit while the nanny isn't looking; but for the first time.
DEVOUR = """
import ctypes
import os
import signal
from distributed import Client

def devour(marker):
    if os.path.exists(marker):
        return "not again"
    open(marker, "w").close()
    os.kill(os.getppid(), signal.SIGSTOP)
    size = 900 * 2**20
    ctypes.memset(ctypes.create_string_buffer(size), 1, size)

with Client() as client:
    workers = client.scheduler_info(n_workers=-1)["workers"]
    (here,) = [address for address, worker in workers.items() if worker["name"] == "worker1-small-0"]
    print(client.submit(devour, "/var/lib/dask/main/devoured", workers=[here]).result())
"""


def health(cluster: Cluster, **options: Any) -> tuple[str, list[str]]:
    state = cluster.state(**options)
    return state["health"], state["reasons"]


def systemctl_show(hosts: Hosts, host: str, process: str, name: str) -> str:
    return str(hosts[host].check_output(f"systemctl show --property={name} --value dask-main-{process}"))


@pytest.mark.parametrize(
    ("host", "process"), [("scheduler", "scheduler"), ("worker1", "worker-small-0"), ("worker1", "worker-large-0")]
)
def test_units_have_hardly_any_rights(
    hosts: Hosts, host: str, process: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = hosts[host].check_output(f"systemd-analyze security --no-pager dask-main-{process}")
    exposure = float(report.splitlines()[-1].split(": ")[1].split()[0])
    with capsys.disabled():
        print(f"\nsystemd-analyze security: {process} {exposure}")
    assert exposure <= EXPOSURE, report


def test_http_endpoints_listen_on_loopback_and_nowhere_else(hosts: Hosts) -> None:
    for name, ports in (("scheduler", {8787}), ("worker1", {9200, 9201, 9210})):
        sockets = [line.split()[3] for line in hosts[name].check_output("ss --no-header -ltn").splitlines()]
        found = {socket for socket in sockets if int(socket.rsplit(":", 1)[1]) in ports}
        assert found == {f"127.0.0.1:{port}" for port in ports}


def test_units_have_limits_above_those_of_dask(hosts: Hosts) -> None:
    limits = {name: systemctl_show(hosts, "worker1", "worker-small-0", name) for name in ("MemoryMax", "TasksMax")}
    assert limits == {"MemoryMax": str((512 + 256) * 2**20), "TasksMax": str(1024 + 128)}
    assert int(systemctl_show(hosts, "worker1", "worker-small-0", "MemoryCurrent")) > 0, "the limit isn't enforced"
    total = int(hosts["scheduler"].check_output("awk '/MemTotal/ {print $2}' /proc/meminfo")) * 1024
    assert abs(int(systemctl_show(hosts, "scheduler", "scheduler", "MemoryMax")) - 0.75 * total) < 0.01 * total


def test_a_task_without_measure_ends_only_its_worker_process_which_comes_back(cluster: Cluster, hosts: Hosts) -> None:
    host = hosts["worker1"]
    processes = ("worker-small-0", "worker-small-1", "worker-large-0")
    before = [systemctl_show(hosts, "worker1", each, "MainPID") for each in processes]
    cluster.job("devour", script="devour.py", content=DEVOUR, state="submitted")
    children = f"ps --ppid {before[0]} -o stat="
    wait_until(lambda: "Z" in host.run(children).stdout, "the kernel has ended the worker process")
    host.check_output("systemctl kill --kill-whom=main --signal=CONT dask-main-worker-small-0")
    assert cluster.job("devour", script="devour.py", content=DEVOUR)["job"]["output"].splitlines()[-1] == "not again"
    assert health(cluster, wait=300) == ("healthy", [])
    log = host.check_output("journalctl --no-pager --unit dask-main-worker-small-0 --lines 200")
    assert "was killed by signal 9" in log
    assert [systemctl_show(hosts, "worker1", each, "MainPID") for each in processes] == before
    cluster.job("devour", state="absent")
    host.check_output("rm /var/lib/dask/main/devoured")


def test_a_stopped_service_has_moved_its_data(ansible: Ansible, cluster: Cluster, hosts: Hosts) -> None:
    with Scattered(ansible, hosts["scheduler"], "worker1-small-0") as held:
        hosts["worker1"].check_output("systemctl stop dask-main-worker-small-0")
        log = hosts["worker1"].check_output("journalctl --no-pager --unit dask-main-worker-small-0 --lines 50")
        assert "drained: 1 keys, 5.0 MB moved in " in log
        before, after = held.release()
    assert after["bytes"] == 5_000_000
    assert before["here"] not in after["on"][0]
    hosts["worker1"].check_output("systemctl start dask-main-worker-small-0")
    assert health(cluster, wait=300) == ("healthy", [])


def change_host(ansible: Ansible, *options: str) -> None:
    """Takes worker1 out or back: as check mode said, and with nothing left to do the second time."""
    arguments = ("flotilla.dask.drain", "--limit", "worker1", *options)
    predicted = ansible.playbook(*arguments, "--check", "--diff")
    assert predicted.ok, predicted.problems
    run = ansible.playbook(*arguments)
    assert run.ok, run.problems
    task = "flotilla.dask.dask_common : Let systemd run the worker"
    assert run.changed == predicted.changed == {task: ["worker1"]}
    again = ansible.playbook(*arguments)
    assert (again.ok, again.changed) == (True, {}), again.problems


def test_a_host_is_taken_out_and_back_without_loss(ansible: Ansible, cluster: Cluster, hosts: Hosts) -> None:
    refused = ansible.playbook("flotilla.dask.drain")
    assert not refused.ok
    assert "as no worker would be left to take the data" in refused.problems

    with Scattered(ansible, hosts["scheduler"], "worker1-large-0") as held:
        change_host(ansible)
        before, after = held.release()
    assert after["bytes"] == 5_000_000
    assert before["here"].rsplit(":", 1)[0] not in " ".join(after["on"][0])
    found, reasons = health(cluster)
    assert found == "degraded"
    assert reasons[0].startswith("3 of 6 planned workers missing: worker1-small-0 (host worker1)")

    change_host(ansible, "--extra-vars", "dask_drain_state=back")
    assert health(cluster) == ("healthy", [])


def test_site_brings_back_a_host_that_was_taken_out(ansible: Ansible, cluster: Cluster) -> None:
    out = ansible.playbook("flotilla.dask.drain", "--limit", "worker1")
    assert out.ok, out.problems
    run = ansible.playbook("flotilla.dask.site")
    assert run.ok, run.problems
    assert health(cluster) == ("healthy", [])


def test_workers_are_restarted_by_group_from_any_host(ansible: Ansible, cluster: Cluster) -> None:
    options = {"groups": ["large"], "state": "restarted", "timeout": 120}
    result = ansible.module("worker2", "flotilla.dask.dask_workers", **options)["worker2"]
    assert not result.get("failed"), result["msg"]
    assert [worker["name"] for worker in result["workers"]] == ["worker1-large-0", "worker2-large-0"]
    assert health(cluster) == ("healthy", [])
