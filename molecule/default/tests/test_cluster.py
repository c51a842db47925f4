# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster on three hosts does its work."""

from __future__ import annotations

from pathlib import Path

from testbed import Ansible, Cluster, Hosts

ROOT = Path(__file__).resolve().parents[3]


def test_every_planned_worker_is_there_with_its_ports_and_resources(cluster: Cluster) -> None:
    state = cluster.state()
    assert (state["health"], state["reasons"]) == ("healthy", [])
    found = {worker["name"]: (worker["dashboard_port"], worker["resources"]) for worker in state["workers"]}
    assert found == {
        f"{host}-{process}": expected
        for host in ("worker1", "worker2")
        for process, expected in {
            "small-0": (9200, {}),
            "small-1": (9201, {}),
            "large-0": (9210, {"BIG": 1}),
        }.items()
    }


def test_processes_have_no_privileges_and_only_the_planned_ports(hosts: Hosts) -> None:
    for name, host in hosts.group("dask_workers").items():
        users = set(host.check_output("ps -o user= -C python").split())
        assert users == {"dask"}, name
        sockets = {line.split()[3] for line in host.check_output("ss --no-header -ltn").splitlines()}
        (address,) = {socket.rsplit(":", 1)[0] for socket in sockets if socket.endswith(":9000")}
        planned = {f"{address}:{port}" for port in (9000, 9001, 9010, 9100, 9101, 9110)}
        planned |= {f"127.0.0.1:{port}" for port in (9200, 9201, 9210)}
        assert planned <= sockets, name
        assert {socket for socket in sockets - planned if not socket.endswith((":22", ":53"))} <= {
            socket for socket in sockets if socket.startswith("127.0.0.")
        }, name


def test_word_count_runs_once_and_its_result_is_kept(ansible: Ansible) -> None:
    playbook = str(ROOT / "examples" / "wordcount.yml")
    first, second = ansible.playbook(playbook), ansible.playbook(playbook)
    assert first.ok, first.problems
    assert first.changed == {"Count the words": ["scheduler"]}
    assert second.changed == {}
    (counted,), (kept,) = (
        [results["scheduler"]["job"] for name, results in run.tasks if name == "Count the words"]
        for run in (first, second)
    )
    assert counted["result"]["top"][0][1] > 10_000
    assert kept == counted


def test_greeting_comes_from_three_workers_at_once(ansible: Ansible) -> None:
    run = ansible.playbook(str(ROOT / "examples" / "greeting.yml"))
    assert run.ok, run.problems
    (lines,) = [results["scheduler"]["msg"] for name, results in run.tasks if name == "Show what it wrote"]
    addresses = [line.removeprefix("Bonjour from ") for line in lines]
    assert len(set(addresses)) == 3
    assert all(address.startswith("tls://") for address in addresses)


def test_workers_return_to_a_restarted_scheduler(cluster: Cluster, hosts: Hosts) -> None:
    hosts["scheduler"].check_output("systemctl restart dask-main-scheduler")
    assert cluster.state(wait=300)["health"] == "healthy"


def test_job_runs_as_the_clusters_account(cluster: Cluster) -> None:
    result = cluster.job("whoami", function="getpass:getuser")
    assert (result["job"]["state"], result["job"]["result"]) == ("finished", "dask")
    assert cluster.job("whoami", state="absent")["changed"]
    assert not cluster.job("whoami", state="absent")["changed"]
