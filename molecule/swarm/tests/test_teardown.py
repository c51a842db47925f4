# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is removed leaves nothing, and is there again at once; the last tests, as there is no cluster after them."""

from __future__ import annotations

from testbed import SECRET, Ansible, Cluster, Hosts, tear_down, traces, wait_until


def test_a_cluster_that_was_removed_is_deployed_again_at_once_without_a_word_of_its_keys(
    ansible: Ansible, cluster: Cluster, hosts: Hosts
) -> None:
    tear_down(ansible, hosts)
    output = ansible.verbose_playbook("flotilla.dask.site")
    assert cluster.state(wait=300)["health"] == "healthy"
    for kind in ("worker", "manager"):
        assert hosts["manager"].check_output(f"docker swarm join-token --quiet {kind}") not in output
    assert "SWMTKN" not in output
    assert SECRET not in output


def test_a_swarm_that_others_use_stays(ansible: Ansible, hosts: Hosts) -> None:
    manager = hosts["manager"]
    manager.check_output(
        "docker service create --detach --name lab --constraint node.role==manager "
        "flotilla-dask-base:bookworm sleep infinity"
    )
    manager.check_output("docker network create --driver overlay --label com.docker.stack.namespace=dask-main lab")
    removed = ansible.playbook("flotilla.dask.teardown")
    assert removed.ok, removed.problems
    assert manager.check_output("docker service ls --format '{{.Name}}'") == "lab"
    assert manager.check_output("docker node ls --quiet").count("\n") == 2
    assert "lab" in manager.check_output("docker network ls --format '{{.Name}}'").split()
    manager.check_output("docker service rm lab && docker network rm lab")
    wait_until(lambda: not manager.check_output("docker ps --all --quiet"), "the lab's container is gone")
    for name in ("node2", "node1", "manager"):
        hosts[name].check_output("docker swarm leave --force")
    assert traces(hosts) == {}
