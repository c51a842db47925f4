# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A cluster in a swarm keeps what it holds while it grows and shrinks, and nodes go and come."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from engines import containers_of, site
from testbed import JOBS, Ansible, Cluster, Hosts, Machines, wait_until

NODES = ("node1", "node2")
WORKER = {"name": "cpu", "memory": "512 MiB"}

# Has data that cannot be computed again, and computes with them without end until it is released.
LOAD = """
import json
import os
import time
from distributed import Client

with Client() as client:
    data = client.scatter([bytes([number]) * 100_000 for number in range(50)])
    rounds = 0
    while not os.path.exists("release"):
        sums = client.map(lambda part, seed: sum(part) + seed, data, seed=rounds, pure=False)
        assert sum(client.gather(sums)) == sum(number * 100_000 for number in range(50)) + 50 * rounds
        rounds += 1
        with open("rounds", "w") as file:
            file.write(str(rounds))
        time.sleep(0.1)
    print(json.dumps({"rounds": rounds, "bytes": sum(map(len, client.gather(data)))}))
"""


class Load:
    """A job that loses its result with any of its data."""

    def __init__(self, cluster: Cluster, hosts: Hosts) -> None:
        self._cluster, self._work = cluster, f"{JOBS}/load/work"
        self._manager = hosts["manager"]
        assert cluster.job("load", script="load.py", content=LOAD, state="submitted")["changed"]
        wait_until(lambda: self.rounds() > 2, "the job has computed")

    def rounds(self) -> int:
        return int(self._manager.run(f"cat {self._work}/rounds").stdout or 0)

    def goes_on(self) -> None:
        before = self.rounds()
        wait_until(lambda: self.rounds() > before + 2, "the job goes on computing")

    def release(self) -> dict[str, int]:
        self._manager.check_output(f"touch {self._work}/release")
        result = self._cluster.job("load", script="load.py", content=LOAD)
        assert not result.get("failed"), result["msg"]
        said: dict[str, int] = json.loads(result["job"]["output"].splitlines()[-1])
        return said


@pytest.fixture
def load(cluster: Cluster, hosts: Hosts) -> Iterator[Load]:
    assert cluster.state(wait=300)["health"] == "healthy"
    yield Load(cluster, hosts)
    cluster.job("load", state="absent")


def names(cluster: Cluster) -> list[str]:
    return sorted(worker["name"] for worker in cluster.state(wait=300)["workers"])


def running_on(hosts: Hosts) -> list[str]:
    """The nodes that the tasks of the workers run on."""
    words = (
        "docker service ps --filter desired-state=running --format '{{.Node}} {{.CurrentState}}' dask-main_worker-cpu"
    )
    lines = hosts["manager"].check_output(words).splitlines()
    return sorted(line.split()[0] for line in lines if " Running " in line)


def running_tasks(hosts: Hosts) -> set[str]:
    """The identities of the workers' tasks, of which a new one is made for whatever is replaced."""
    words = "docker service ps --quiet --filter desired-state=running dask-main_worker-cpu"
    return set(hosts["manager"].check_output(words).split())


def test_every_worker_is_there_by_its_name_and_on_the_network_of_the_cluster(cluster: Cluster, hosts: Hosts) -> None:
    state = cluster.state(wait=300)
    assert (state["health"], state["unplanned"]) == ("healthy", [])
    assert names(cluster) == ["cpu-1", "cpu-2"]
    network = json.loads(hosts["manager"].check_output("docker network inspect dask-main-plain"))[0]
    assert network["Attachable"]
    outside = {hosts.address(name) for name in ("manager", *NODES)}
    assert not {each["address"].split("/")[-1].split(":")[0] for each in state["workers"]} & outside
    assert sorted(running_on(hosts)) == list(NODES)
    assert "dask-main_worker-cpu.1" in hosts["manager"].check_output("docker stack ps dask-main")


def test_a_container_has_no_rights_and_limits_above_those_of_dask(hosts: Hosts) -> None:
    for host in ("manager", *NODES):
        for container in containers_of(hosts[host], "dask-main"):
            status = dict(
                line.split(":\t", 1) for line in container.run("cat /proc/1/status").splitlines() if ":\t" in line
            )
            assert {status[each] for each in ("CapPrm", "CapEff", "CapBnd")} == {"0" * 16}
            assert set(status["Uid"].split()) == {"10001"}
            for path in ("/etc/dask/main/x", "/opt/dask/main/x", "/usr/x"):
                assert "Read-only" in container.run(f"touch {path} 2>&1; true"), path
            container.run("touch /tmp/x /var/lib/dask/main/x")
            limits = container.inspect()["HostConfig"]
            assert limits["PidsLimit"] > 0
            assert limits["Memory"] > 512 * 2**20
            assert container.run("stat -c %a:%u /etc/dask/main/tls/host.pem") == "400:10001"


def availability(hosts: Hosts, node: str) -> str:
    return str(hosts["manager"].check_output(f"docker node inspect --format '{{{{.Spec.Availability}}}}' {node}"))


def test_a_node_that_somebody_has_drained_stays_so_and_it_is_said(
    ansible: Ansible, cluster: Cluster, hosts: Hosts
) -> None:
    hosts["manager"].check_output("docker node update --availability drain node2")
    try:
        wait_until(lambda: running_on(hosts) == ["node1", "node1"], "the other node runs the workers")
        shown = "docker service ps --filter desired-state=running --format '{{.CurrentState}}' dask-main_worker-cpu"
        wait_until(lambda: hosts["manager"].check_output(shown).count("Running") == 2, "the swarm finds them healthy")
        run = ansible.playbook("flotilla.dask.site")
        assert (run.ok, run.changed) == (True, {}), run.problems
        assert availability(hosts, "node2") == "drain"
        [said] = [results for name, results in run.tasks if name.endswith("Say that somebody keeps work from the node")]
        assert "node2 is set to 'drain' in the swarm, and stays so" in said["node2"]["msg"]
    finally:
        hosts["manager"].check_output("docker node update --availability active node2")
    assert cluster.state(wait=300)["health"] == "healthy"


def test_a_group_grows_and_shrinks_and_is_replaced_under_load_without_loss(
    ansible: Ansible, cluster: Cluster, hosts: Hosts, load: Load
) -> None:
    first = {each["name"]: each["address"] for each in cluster.state()["workers"]}
    changed = site(ansible, dask_worker_groups=[{**WORKER, "replicas": 6}])
    assert "flotilla.dask.dask_common : Let the swarm run the worker" in changed
    grown = {each["name"]: each["address"] for each in cluster.state(wait=300)["workers"]}
    assert sorted(grown) == [f"cpu-{number}" for number in range(1, 7)]
    assert first.items() <= grown.items()
    load.goes_on()
    before = running_tasks(hosts)
    site(ansible, dask_worker_groups=[{**WORKER, "replicas": 2, "environment": {"LAB": "another"}}])
    assert not running_tasks(hosts) & before
    assert cluster.state(wait=300)["health"] == "healthy"
    assert len(names(cluster)) == len(running_on(hosts)) == 2
    assert cluster.state()["unplanned"] == []
    load.goes_on()
    assert load.release()["bytes"] == 5_000_000


@pytest.fixture
def lab(hosts: Hosts) -> Iterator[str]:
    """The name of a service of somebody else that runs on node1, of the image that all nodes have."""
    manager = hosts["manager"]
    shape = "{{.Spec.TaskTemplate.ContainerSpec.Image}}"
    image = manager.check_output(f"docker service inspect --format '{shape}' dask-main_worker-cpu")
    words = "--no-resolve-image --no-healthcheck --constraint node.hostname==node1 --label flotilla.dask.cluster=main"
    manager.check_output(f"docker service create --name lab {words} {image} sleep infinity")
    yield "lab"
    manager.check_output("docker service rm lab")


def test_a_node_that_is_taken_out_gives_its_workers_and_their_data_to_the_others(
    ansible: Ansible, hosts: Hosts, load: Load, lab: str
) -> None:
    others = hosts["manager"].check_output(f"docker service ps --quiet {lab}")
    out = ansible.playbook("flotilla.dask.drain", "--limit", "node1")
    assert out.ok, out.problems
    wait_until(lambda: running_on(hosts) == ["node2", "node2"], "the swarm has found the workers healthy")
    assert containers_of(hosts["node1"], "dask-main") == []
    assert availability(hosts, "node1") == "active"
    assert hosts["manager"].check_output(f"docker service ps --quiet --filter desired-state=running {lab}") == others
    load.goes_on()
    back = ansible.playbook("flotilla.dask.drain", "--limit", "node1", extra_vars={"dask_drain_state": "back"})
    assert back.ok, back.problems
    assert load.release()["bytes"] == 5_000_000
    again = ansible.playbook("flotilla.dask.drain", "--limit", "node1", extra_vars={"dask_drain_state": "back"})
    assert (again.ok, again.changed) == (True, {}), again.problems


def test_a_node_that_is_lost_has_its_workers_replaced_and_jobs_finish(
    cluster: Cluster, hosts: Hosts, machines: Machines, held_job: str
) -> None:
    nodes = running_on(hosts)
    victim = next(node for node in NODES if node in nodes)
    machines.kill(victim)
    try:
        wait_until(lambda: not {victim, ""} & set(running_on(hosts) or [""]), "the other runs the workers")
        assert cluster.state(wait=300)["health"] == "healthy"
        assert cluster.release_job(held_job)["output"].splitlines()[-1] == str(sum(range(200)))
    finally:
        machines.start(victim)
    words = "docker node ls --format '{{.Hostname}} {{.Status}}'"
    wait_until(lambda: f"{victim} Ready" in hosts["manager"].check_output(words), f"{victim} is back")
    # An engine that is killed while it removes a container leaves the container's volume, which nobody can tell then.
    hosts[victim].check_output("docker volume prune --force")
    assert cluster.state(wait=300)["health"] == "healthy"
