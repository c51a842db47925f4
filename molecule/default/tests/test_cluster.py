# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster on three hosts does its work, and gets over the loss of its parts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from testbed import Ansible, Hosts, wait_until

ROOT = Path(__file__).resolve().parents[3]

# Has results on the workers, and fetches them when it is released by a file in its working directory.
HELD_SUM = """
import os
import time
from distributed import Client, wait

with Client() as client:
    numbers = client.map(int, range(200), pure=False)
    wait(numbers)
    while not os.path.exists("release"):
        time.sleep(0.1)
    print(sum(client.gather(numbers)))
"""


def cluster(ansible: Ansible, **options: Any) -> dict[str, Any]:
    """The cluster as dask_cluster_info tells it, on a host where it finds it by itself."""
    result = ansible.module("scheduler", "flotilla.dask.dask_cluster_info", **options)["scheduler"]
    assert not result.get("failed"), result["msg"]
    state: dict[str, Any] = result["cluster"]
    return state


def job(ansible: Ansible, name: str, **options: Any) -> dict[str, Any]:
    return ansible.module("scheduler", "flotilla.dask.dask_job", name=name, **options)["scheduler"]


def main_pid(hosts: Hosts, host: str, process: str) -> int:
    return int(hosts[host].check_output(f"systemctl show --property=MainPID --value dask-main-{process}"))


@pytest.fixture
def running_job(ansible: Ansible, request: pytest.FixtureRequest) -> str:
    """The name of a job that has work on the workers."""
    name = str(request.node.name)
    assert job(ansible, name, script="sum.py", content=HELD_SUM, state="submitted")["changed"]

    def has_tasks_done() -> bool:
        jobs = ansible.module("scheduler", "flotilla.dask.dask_job_info", name=name)["scheduler"]["jobs"]
        return bool(jobs[0]["progress"]["done"])

    wait_until(has_tasks_done, "the job has tasks done")
    return name


def finish(ansible: Ansible, hosts: Hosts, name: str) -> dict[str, Any]:
    """Releases a job that runs, waits for its end, and returns its record."""
    hosts["scheduler"].check_output(f"touch /var/lib/dask/main/jobs/{name}/work/release")
    result = job(ansible, name, script="sum.py", content=HELD_SUM)
    assert not result.get("failed"), result["msg"]
    assert not result["changed"]
    record: dict[str, Any] = result["job"]
    return record


def test_every_planned_worker_is_there_with_its_ports_and_resources(ansible: Ansible) -> None:
    state = cluster(ansible)
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
    assert all(address.startswith("tcp://") for address in addresses)


def test_job_survives_a_killed_worker_that_comes_back(ansible: Ansible, hosts: Hosts, running_job: str) -> None:
    before = main_pid(hosts, "worker1", "worker-small-0")
    hosts["worker1"].check_output(f"kill -KILL {before}")
    record = finish(ansible, hosts, running_job)
    assert (record["state"], record["attempts"]) == ("finished", 1)
    assert record["output"].splitlines()[-1] == str(sum(range(200)))  # Dask may have warned of what it computed again
    assert cluster(ansible, wait=60)["health"] == "healthy"
    assert main_pid(hosts, "worker1", "worker-small-0") not in (0, before)


def test_job_and_workers_survive_a_killed_scheduler(ansible: Ansible, hosts: Hosts, running_job: str) -> None:
    started = cluster(ansible)["started"]
    killed = time.monotonic()
    hosts["scheduler"].check_output(f"kill -KILL {main_pid(hosts, 'scheduler', 'scheduler')}")
    assert cluster(ansible, wait=60)["started"] > started
    print(f"killed scheduler: healthy again, with all workers, after {time.monotonic() - killed:.1f} s")
    record = finish(ansible, hosts, running_job)
    assert (record["state"], record["attempts"]) == ("finished", 2)
    assert record["output"].endswith(str(sum(range(200))))
    print(f"killed scheduler: its job has finished after {time.monotonic() - killed:.1f} s")
    state = cluster(ansible)
    assert (state["health"], len(state["workers"])) == ("healthy", 6)


def test_workers_return_to_a_restarted_scheduler(ansible: Ansible, hosts: Hosts) -> None:
    hosts["scheduler"].check_output("systemctl restart dask-main-scheduler")
    assert cluster(ansible, wait=60)["health"] == "healthy"


def test_job_runs_as_the_clusters_account(ansible: Ansible) -> None:
    result = job(ansible, "whoami", function="getpass:getuser")
    assert (result["job"]["state"], result["job"]["result"]) == ("finished", "dask")
    assert job(ansible, "whoami", state="absent")["changed"]
    assert not job(ansible, "whoami", state="absent")["changed"]
