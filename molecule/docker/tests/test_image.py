# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The image is the environment and hardly anything else, is the same wherever it is made, and gets to every host."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import Container, inspect, site
from testbed import Ansible, Cluster, Hosts
from testinfra.host import Host

ROOT = Path(__file__).parents[3]
PLAYBOOK = str(Path(__file__).parents[1] / "image.yml")
BASE = "flotilla-dask-base:bookworm"
REGISTRY = json.dumps(
    {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": "/var/lib/docker-registry"}},
        "http": {"addr": ":5000"},
    }
)

# Every file of the environment with its content, but for what says when or where it was put there.
CONTENT = """
import hashlib, os, sys
for directory, _names, files in sorted(os.walk(sys.argv[1])):
    for name in sorted(files):
        path = os.path.join(directory, name)
        text = os.readlink(path).encode() if os.path.islink(path) else open(path, "rb").read()
        print(path, hashlib.sha256(text).hexdigest())
"""


@pytest.fixture
def image(hosts: Hosts) -> str:
    """The name of the image that the cluster runs."""
    name: str = Container(hosts["worker1"], "worker-cpu-0").inspect()["Config"]["Image"]
    return name


@pytest.fixture
def registry(hosts: Hosts) -> Iterator[str]:
    """A registry on the scheduler's host, which all engines trust."""
    host = hosts["scheduler"]
    host.check_output(f"printf '%s' '{REGISTRY}' >/etc/docker/registry/config.yml && systemctl restart docker-registry")
    yield "scheduler:5000"
    host.check_output("systemctl stop docker-registry")


def content(host: Host, image: str) -> list[str]:
    words = f"docker run --rm --user 0 --network none --interactive {image} python - /opt/dask/main/envs"
    return str(host.check_output(f"{words} <<'END'\n{CONTENT}\nEND")).splitlines()


def test_the_image_is_small_and_not_root(hosts: Hosts, image: str) -> None:
    host = hosts["worker1"]
    prefix = host.check_output("readlink -f /opt/dask/main/envs/current")
    environment = int(host.check_output(f"du --summarize --bytes {prefix}").split()[0])
    assert inspect(host, image)["Size"] < inspect(host, BASE)["Size"] + 1.2 * environment
    assert inspect(host, image)["Config"]["User"] == "10001:10001"
    found = host.check_output(f"docker run --rm {image} sh -c 'command -v gcc cc; find / -xdev -name \\*.whl; true'")
    assert found == ""


def test_labels_tell_what_is_in_the_image(hosts: Hosts, image: str, cluster: Cluster) -> None:
    labels = inspect(hosts["worker1"], image)["Config"]["Labels"]
    assert labels["flotilla.dask.environment"] == cluster.state()["environment"]
    assert f"distributed=={cluster.state()['versions']['packages']['distributed']}" in labels["flotilla.dask.packages"]
    assert labels["org.opencontainers.image.base.name"] == BASE
    assert labels["flotilla.dask.lock"]


def test_an_image_that_another_host_makes_has_the_same_content(ansible: Ansible, hosts: Hosts, image: str) -> None:
    """Of an environment that was installed there on its own."""
    run = ansible.playbook(PLAYBOOK, "--limit", "worker1", extra_vars={"dask_image_repository": "again"})
    assert run.ok, run.problems
    again = "again:" + image.partition(":")[2]
    assert inspect(hosts["worker1"], again)["Id"] != inspect(hosts["scheduler"], image)["Id"]
    assert content(hosts["worker1"], again) == content(hosts["scheduler"], image)
    second = ansible.playbook(PLAYBOOK, "--limit", "worker1", extra_vars={"dask_image_repository": "again"})
    assert (second.ok, second.changed) == (True, {}), second.problems
    hosts["worker1"].check_output(f"docker rmi {again}")


def test_an_image_is_pushed_to_a_registry_and_taken_from_there(
    ansible: Ansible, hosts: Hosts, image: str, registry: str
) -> None:
    variables = {"dask_image_registry": registry, "dask_image_repository": "lab/dask"}
    run = ansible.playbook(PLAYBOOK, extra_vars=variables)
    assert run.ok, run.problems
    assert run.changed["flotilla.dask.dask_image : Push the image"] == ["scheduler"]
    assert run.changed["flotilla.dask.dask_image : Pull the image"] == ["worker1"]
    name = f"{registry}/lab/dask:{image.partition(':')[2]}"
    assert inspect(hosts["worker1"], name)["Id"] == inspect(hosts["scheduler"], name)["Id"]
    for host in ("scheduler", "worker1"):
        hosts[host].check_output(f"docker rmi {name}")


def test_an_image_of_a_conda_environment_brings_its_own_python(ansible: Ansible, hosts: Hosts) -> None:
    variables = {
        "dask_environment_method": "conda",
        "dask_environment_name": "conda",
        "dask_environment_file": str(ROOT / "molecule/airgap/environment.yml"),
        "dask_environment_lock": str(ROOT / "build/docker-lock.yml"),
        "dask_download_on": "controller",
        "dask_cache_directory": str(ROOT / "build/cache"),
        "dask_image_repository": "of-conda",
    }
    run = ansible.playbook(PLAYBOOK, "--limit", "worker1", extra_vars=variables)
    assert run.ok, run.problems
    [name] = hosts["worker1"].check_output("docker images --format '{{.Repository}}:{{.Tag}}' of-conda").split()
    look = "import distributed, sys; print(sys.executable, distributed.__version__)"
    said = hosts["worker1"].check_output(f"docker run --rm --read-only {name} python -c '{look}'")
    assert said.startswith("/opt/dask/main/envs/conda-")
    hosts["worker1"].check_output(f"docker rmi {name}")
    site(ansible, "--limit", "worker1")  # makes the cluster's own environment the current one again


def test_a_cluster_with_an_image_of_other_software_is_refused_before_anything_starts(
    ansible: Ansible, hosts: Hosts
) -> None:
    before = Container(hosts["worker1"], "worker-cpu-0").inspect()["Id"]
    run = ansible.playbook("flotilla.dask.site", extra_vars={"dask_image": BASE})
    assert not run.ok
    assert "an image that this collection made from the same lock" in run.problems
    assert Container(hosts["worker1"], "worker-cpu-0").inspect()["Id"] == before


def test_no_image_is_left_of_what_was_built_on_the_way(hosts: Hosts, image: str) -> None:
    for name in ("scheduler", "worker1"):
        listing = hosts[name].check_output("docker images --filter dangling=true --format '{{json .}}'").splitlines()
        assert [json.loads(line) for line in listing] == []
    travelling = image.replace(":", "-") + "."
    assert not [name for name in os.listdir(tempfile.gettempdir()) if name.startswith(travelling)]
