# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an inventory with containers may say, and what is refused before anything is started."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from engines import Container, check_addresses, containers, site
from testbed import Ansible, Cluster, Hosts

BRIDGE = {"dask_docker_network": "bridge", "dask_firewall": False, "dask_drain_seconds": 5}


@pytest.fixture
def without_engine(hosts: Hosts) -> Iterator[None]:
    hosts["worker1"].check_output("systemctl stop docker.socket docker")
    yield
    hosts["worker1"].check_output("systemctl start docker.socket docker")


def refusal(ansible: Ansible, playbook: str = "flotilla.dask.site", **extra_vars: object) -> str:
    run = ansible.playbook(playbook, extra_vars=extra_vars)
    assert not run.ok
    assert run.changed == {}
    return run.problems


@pytest.mark.usefixtures("without_engine")
def test_what_a_host_lacks_is_refused(ansible: Ansible, hosts: Hosts) -> None:
    hosts["worker1"].check_output("mv /srv/reference /srv/elsewhere")
    try:
        problems = refusal(ansible)
    finally:
        hosts["worker1"].check_output("mv /srv/elsewhere /srv/reference")
    assert "on which a Docker Engine 20.10 or newer answers; that of worker1 doesn't" in problems
    assert "dask_docker_volumes[1]: '/srv/reference' is refused" in problems
    assert "there is none on worker1" in problems


@pytest.mark.parametrize("playbook", ["site", "teardown"])
def test_a_launcher_that_did_not_start_the_cluster_is_refused(ansible: Ansible, playbook: str) -> None:
    """It would find nothing to stop, and two of each process would be there."""
    problems = refusal(ansible, f"flotilla.dask.{playbook}", dask_launcher="supervisor")
    assert "Allowed: docker, which runs cluster main on host worker1" in problems
    assert "systemd, which runs cluster main on host worker2" in problems


def test_a_port_that_another_program_has_is_named_before_anything_starts(ansible: Ansible, hosts: Hosts) -> None:
    host = hosts["worker1"]
    host.check_output("docker rm --force dask-main-worker-cpu-1")
    unit = "systemd-run --unit taken --collect python3 -m http.server 9201 --bind"
    host.check_output(f"{unit} {hosts.address('worker1')}")
    try:
        run = ansible.playbook("flotilla.dask.site")
        assert not run.ok
        assert f"worker-cpu-1 cannot listen on {hosts.address('worker1')} port 9201" in run.problems
        assert "worker-cpu-1" not in containers(host) or not host.run("docker start dask-main-worker-cpu-1").succeeded
    finally:
        host.check_output("systemctl stop taken")
    assert site(ansible) == {"flotilla.dask.dask_common : Let Docker run the worker": ["worker1"]}


def test_published_ports_are_advertised_and_reached_as_the_host_has_them(
    ansible: Ansible, cluster: Cluster, hosts: Hosts
) -> None:
    """Worker and nanny both, in a network of their own; then back to the host's network, the others left alone."""
    host = hosts["worker1"]
    changed = site(ansible, **BRIDGE, dask_proxy_hosts=[])
    assert "flotilla.dask.dask_common : Let Docker run the worker" in changed
    networks = {Container(host, name).inspect()["HostConfig"]["NetworkMode"] for name in containers(host)}
    assert networks == {"bridge"}
    check_addresses(cluster, hosts)
    assert site(ansible, **BRIDGE, dask_proxy_hosts=[]) == {}
    site(ansible)
    check_addresses(cluster, hosts)


def test_a_drained_host_with_containers_is_taken_out_and_back(ansible: Ansible, cluster: Cluster, hosts: Hosts) -> None:
    out = ansible.playbook("flotilla.dask.drain", "--limit", "worker1")
    assert out.ok, out.problems
    assert not hosts["worker1"].check_output("docker ps --quiet")
    assert {each["name"] for each in cluster.state()["workers"]} == {
        f"{host}-cpu-{index}" for host in ("scheduler", "worker2") for index in (0, 1)
    }
    back = ansible.playbook("flotilla.dask.drain", "--limit", "worker1", extra_vars={"dask_drain_state": "back"})
    assert back.ok, back.problems
    assert cluster.state(wait=300)["health"] == "healthy"
    assert site(ansible, "--check") == {}
