# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Processes in containers and under systemd are one cluster, and none of them has rights or loses what it holds."""

from __future__ import annotations

import json
import os
import shlex
import socket
from pathlib import Path
from typing import Any

import pytest
from door import Door
from engines import Container, check_addresses, containers, inspect, site
from testbed import Ansible, Cluster, Hosts, Machines, Scattered, wait_until

NAMES = ("scheduler-cpu-0", "scheduler-cpu-1", "worker1-cpu-0", "worker1-cpu-1", "worker2-cpu-0", "worker2-cpu-1")

# What each worker says of itself, and a sum for which every worker has to get data from the others.
LOOK = """
import json
import os
from distributed import Client

def look():
    return {
        "environment": os.environ["FLOTILLA_ENVIRONMENT"],
        "plugin": __import__("wordcount").__name__,
        "volume": os.path.exists("/data"),
    }

with Client() as client:
    workers = {each["name"]: address for address, each in client.scheduler_info(n_workers=-1)["workers"].items()}
    told = {name: client.submit(look, workers=[address], pure=False).result() for name, address in workers.items()}
    parts = [client.submit(list, range(1000), workers=[address], pure=False) for address in workers.values()]
    sums = [client.submit(lambda *all: sum(map(int, map(sum, all))), *parts, workers=[address], pure=False)
            for address in workers.values()]
    print(json.dumps({"told": told, "sums": client.gather(sums)}))
"""


def test_workers_in_containers_and_under_systemd_have_one_fingerprint_and_each_others_data(cluster: Cluster) -> None:
    assert cluster.state(wait=300)["health"] == "healthy"
    result = cluster.job("look", script="look.py", content=LOOK)
    assert not result.get("failed"), result["msg"]
    said: dict[str, Any] = json.loads(result["job"]["output"].splitlines()[-1])
    cluster.job("look", state="absent")
    assert set(said["told"]) == set(NAMES)
    assert {each["environment"] for each in said["told"].values()} == {cluster.state()["environment"]}
    assert {name for name, each in said["told"].items() if each["volume"]} == set(NAMES[:4]), "not all in containers"
    assert said["sums"] == [len(NAMES) * sum(range(1000))] * len(NAMES)


def test_every_port_that_is_configured_is_served_and_what_is_advertised_is_reached_from_other_hosts(
    cluster: Cluster, hosts: Hosts
) -> None:
    check_addresses(cluster, hosts)


@pytest.mark.parametrize(
    ("host", "name"), [("scheduler", "scheduler"), ("scheduler", "worker-cpu-1"), ("worker1", "worker-cpu-0")]
)
def test_a_container_has_no_rights_and_limits_above_those_of_dask(hosts: Hosts, host: str, name: str) -> None:
    container = Container(hosts[host], name)
    status = dict(line.split(":\t", 1) for line in container.run("cat /proc/1/status").splitlines() if ":\t" in line)
    assert {status[each] for each in ("CapInh", "CapPrm", "CapEff", "CapBnd")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert "0" not in status["Uid"].split()
    for path in ("/etc/dask/main/x", "/opt/dask/main/x", "/usr/x", "/srv/reference/x"):
        assert "Read-only" in container.run(f"touch {path} 2>&1; true"), path
    container.run("touch /tmp/x /var/lib/dask/main/spill/x && rm /var/lib/dask/main/spill/x")
    limits = container.inspect()["HostConfig"]
    assert limits["Memory"] == limits["MemorySwap"] > 0
    assert limits["PidsLimit"] > 0
    [memory] = [limit for limit in container.argv if limit.isdigit() and int(limit) > 2**20] or ["0"]
    assert int(memory) < limits["Memory"]


def test_a_health_check_asks_what_its_own_process_serves(hosts: Hosts) -> None:
    for host in ("scheduler", "worker1"):
        for name in containers(hosts[host]):
            container = Container(hosts[host], name)
            wait_until(container.is_healthy, f"{name} is healthy")
            check = container.inspect()["Config"]["Healthcheck"]["Test"][1:]
            assert container.execute(*check).succeeded
            assert not container.execute(*check, environment={"FLOTILLA_HEALTH": "http://127.0.0.1:9/health"}).succeeded


def test_docker_stop_drains(ansible: Ansible, cluster: Cluster, hosts: Hosts) -> None:
    with Scattered(ansible, hosts["scheduler"], "worker1-cpu-0") as data:
        hosts["worker1"].check_output("docker stop dask-main-worker-cpu-0")
        before, after = data.release()
    assert after["bytes"] == 5_000_000
    assert before["here"] not in after["on"][0]
    assert cluster.state()["health"] == "degraded"
    run = ansible.playbook("flotilla.dask.site")
    assert run.ok, run.problems
    assert run.changed == {"flotilla.dask.dask_common : Let Docker run the worker": ["worker1"]}
    assert cluster.state(wait=300)["health"] == "healthy"


def test_a_container_that_was_killed_and_those_of_an_engine_that_restarts_come_back(
    cluster: Cluster, hosts: Hosts, machines: Machines
) -> None:
    started = {each["name"]: each["address"] for each in cluster.state(wait=300)["workers"]}
    pid = Container(hosts["worker1"], "worker-cpu-1").inspect()["State"]["Pid"]
    hosts["worker1"].check_output(f"kill -9 {pid}")
    wait_until(
        lambda: Container(hosts["worker1"], "worker-cpu-1").inspect()["State"]["Pid"] not in (0, pid), "it restarts"
    )
    assert cluster.state(wait=300)["health"] == "healthy"
    hosts["scheduler"].check_output("systemctl restart docker")
    assert cluster.state(wait=300)["health"] == "healthy"
    machines.stop("worker1")
    machines.start("worker1")
    state = cluster.state(wait=300)
    assert {each["name"]: each["address"] for each in state["workers"]} == started


def test_a_person_who_runs_the_compose_file_gets_the_very_containers(
    ansible: Ansible, cluster: Cluster, hosts: Hosts
) -> None:
    host = hosts["worker1"]
    names = [f"dask-main-{name}" for name in containers(host)]
    before = {name: inspect(host, name) for name in names}
    host.check_output(f"docker stop {' '.join(names)} && docker rm {' '.join(names)}")
    host.check_output("cd /etc/dask/main && docker-compose --project-name dask-main up --detach")
    for name, was in before.items():
        now = inspect(host, name)
        assert now["Config"]["Cmd"] == was["Config"]["Cmd"]
        for key in ("User", "Image", "WorkingDir", "StopTimeout"):
            assert now["Config"][key] == was["Config"][key], key
        assert set(now["Config"]["Env"]) == set(was["Config"]["Env"])
        assert set(was["Config"]["Labels"].items()) <= set(now["Config"]["Labels"].items())
        for key, value in was["HostConfig"].items():
            assert comparable(now["HostConfig"][key]) == comparable(value), key
    assert cluster.state(wait=300)["health"] == "healthy"
    assert site(ansible, "--check") == {}


def comparable(value: Any) -> Any:
    """Lists in no order, and what is empty as nothing: two programs write the same in two ways."""
    return (sorted(map(str, value)) if isinstance(value, list) else value) or None


def test_the_proxy_leads_to_workers_in_containers(cluster: Cluster, hosts: Hosts) -> None:
    """From the host that the proxy is on, through the firewalls of the others."""
    assert cluster.state(wait=300)["health"] == "healthy"
    authority = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "certificates", "issuer", "ca.crt")
    door = Door("worker2", hosts.address("worker2"), "", authority)
    assert door.page("/status").status == 200
    for name in ("scheduler", "worker1", "worker2"):
        page = f"/proxy/9201/{hosts.address(name)}/status"
        assert (door.page(page).status, door.page(page, None).status) == (200, 401), name


def test_a_worker_in_a_container_tells_what_alerts_need(cluster: Cluster, hosts: Hosts) -> None:
    """To the host that monitoring would be on."""
    assert cluster.state(wait=300)["health"] == "healthy"
    read = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"
    address = f"http://{hosts.address('worker1')}:9201/metrics"
    said = dict(
        line.rsplit(" ", 1)
        for line in hosts["worker2"].check_output(f"python3 -c {shlex.quote(read)} {address}").splitlines()
        if not line.startswith("#")
    )
    assert float(said["flotilla_worker_memory_limit_bytes"]) == 2**29
    assert float(said["flotilla_spill_free_bytes"]) > 0
    assert any(name.startswith("flotilla_certificate_expiry_timestamp_seconds") for name in said)


def test_the_firewall_of_the_host_is_before_containers_too(hosts: Hosts) -> None:
    """We are no host of the cluster."""
    for port in (9000, 9100, 9200):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((hosts.address("worker1"), port), timeout=5)
