# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is removed leaves nothing but what is somebody else's; the last test, as there is no cluster after it."""

from __future__ import annotations

from engines import Container
from testbed import REMOVE_ALL, Ansible, Hosts, tear_down, traces


def test_teardown_leaves_nothing_but_what_somebody_built_upon_the_image(ansible: Ansible, hosts: Hosts) -> None:
    host = hosts["worker1"]
    image = Container(host, "worker-cpu-0").inspect()["Config"]["Image"]
    host.check_output(f"printf 'FROM {image}\\nENV LAB=1\\n' | DOCKER_BUILDKIT=0 docker build --tag lab:1 -")
    host.check_output("docker run --detach --name bob --label flotilla.dask.kind=worker lab:1 sleep infinity")
    removed = ansible.playbook("flotilla.dask.teardown", extra_vars=REMOVE_ALL)
    assert removed.ok, removed.problems
    assert host.check_output("docker inspect --format '{{.State.Running}}' bob") == "true"
    assert set(traces(hosts)) == {"worker1"}
    host.check_output(f"docker rm --force bob && docker rmi lab:1 {image}")
    assert traces(hosts) == {}
    tear_down(ansible, hosts)
