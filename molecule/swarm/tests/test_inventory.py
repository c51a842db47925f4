# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an inventory with a swarm may say, and what is refused before anything is started."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from engines import site
from testbed import Ansible, Cluster, Hosts, traces

WORKER = {"name": "cpu", "memory": "512 MiB", "replicas": 2}
ENCRYPT = (
    "unshare --net ip xfrm state add src 127.0.0.1 dst 127.0.0.2 proto esp spi 0x100 mode transport "
    f"aead 'rfc4106(gcm(aes))' 0x{20 * '00'} 64"
)


def refusal(ansible: Ansible, **extra_vars: object) -> str:
    run = ansible.playbook("flotilla.dask.site", extra_vars=extra_vars)
    assert not run.ok
    assert run.changed == {}
    return run.problems


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"dask_docker_volumes": ["/srv/nowhere"]}, "there is none on node1"),
        ({"dask_worker_groups": [{**WORKER, "memory": "900 TB"}]}, "as no node has more"),
    ],
)
def test_what_the_nodes_cannot_run_is_refused(ansible: Ansible, variables: dict[str, object], words: str) -> None:
    assert words in refusal(ansible, **variables)


def test_encryption_is_refused_where_the_kernel_lacks_it(ansible: Ansible, hosts: Hosts) -> None:
    if hosts["node1"].run(ENCRYPT).succeeded:
        assert "flotilla.dask.dask_common : Let the swarm run the worker" in site(
            ansible, "--check", dask_swarm_encrypted=True
        )
    else:
        assert "cannot encrypt what containers send each other" in refusal(ansible, dask_swarm_encrypted=True)


def test_a_host_leaves_the_swarm_with_the_cluster_and_one_of_another_swarm_is_refused(
    ansible: Ansible, hosts: Hosts, cluster: Cluster, with_workers: Callable[..., Ansible]
) -> None:
    left = with_workers("node1").playbook("flotilla.dask.remove_host", extra_vars={"dask_host_name": "node2"})
    assert left.ok, left.problems
    nodes = hosts["manager"].check_output("docker node ls --format '{{.Status}}'").split()
    assert nodes == ["Ready", "Ready"]
    assert traces(hosts).get("node2", "") == ""
    assert cluster.state(wait=300)["health"] == "healthy"

    hosts["node2"].check_output(f"docker swarm init --advertise-addr {hosts.address('node2')}")
    try:
        assert "node2, which is in another swarm" in refusal(ansible)
    finally:
        hosts["node2"].check_output("docker swarm leave --force")
    changed = site(ansible)
    assert changed["flotilla.dask.dask_swarm : Join the swarm"] == ["node2"]
    assert site(ansible, "--check") == {}


def test_a_published_port_that_another_program_has_is_named(ansible: Ansible, hosts: Hosts) -> None:
    host = hosts["manager"]
    host.check_output("systemd-run --unit taken --collect python3 -m http.server 8799")
    try:
        run = ansible.playbook("flotilla.dask.site", extra_vars={"dask_scheduler_port": 8799})
        assert not run.ok
        assert "scheduler cannot listen on 0.0.0.0 port 8799: another program has the port" in run.problems
    finally:
        host.check_output("systemctl stop taken")
        site(ansible)
