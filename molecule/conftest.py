# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fixtures of all scenarios."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from door import PREFIXES, Door
from playwright.sync_api import Browser, sync_playwright
from testbed import Ansible, Cluster, Deployment, Hosts, Machines

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def inventory() -> str:
    """The file that Molecule wrote the scenario's hosts to."""
    return os.environ["MOLECULE_INVENTORY_FILE"]


@pytest.fixture(scope="session")
def hosts(inventory: str) -> Hosts:
    return Hosts(inventory)


@pytest.fixture(scope="session")
def ansible(inventory: str) -> Ansible:
    return Ansible(Path(inventory).parent)


@pytest.fixture(scope="session")
def with_workers(inventory: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ansible]:
    """Ansible with an inventory of the same hosts, of which exactly those that are named are to have workers."""

    @functools.cache
    def ansible(*hosts: str) -> Ansible:
        directory = tmp_path_factory.mktemp("regrouped") / "inventory"
        changed = Path(shutil.copytree(Path(inventory).parent, directory), Path(inventory).name)
        groups = yaml.safe_load(changed.read_text())
        groups["dask_workers"]["hosts"] = {host: groups["all"]["hosts"][host] for host in hosts}
        changed.write_text(yaml.safe_dump(groups))
        return Ansible(directory)

    return ansible


@pytest.fixture(scope="session", autouse=True)
def deployment(ansible: Ansible, hosts: Hosts) -> Deployment | None:
    """How the cluster was deployed that the tests work with; None where somebody has done it before them."""
    places = ("/etc/dask", "/shared/dask")
    if any(host.file(place).exists for host in hosts.group("all").values() for place in places):
        return None
    playbook = "flotilla.dask.batch" if hosts.group("dask_login") else "flotilla.dask.site"
    return Deployment(ansible, hosts, Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]), playbook)


@pytest.fixture(scope="session")
def first_runs(deployment: Deployment | None) -> Deployment:
    """How the cluster was deployed, for tests of that itself."""
    if deployment is None:
        pytest.skip("the cluster was deployed before the tests")
    return deployment


@pytest.fixture(scope="session")
def cluster(ansible: Ansible, hosts: Hosts) -> Cluster:
    return Cluster(ansible, hosts)


@pytest.fixture(scope="session")
def certificates_directory() -> Path:
    """What the role dask_certificates keeps on the controller."""
    return Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "certificates")


@pytest.fixture
def held_job(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a job that has its results on the workers, until it is released."""
    name = str(request.node.name)
    cluster.hold_job(name)
    yield name
    cluster.job(name, state="absent")


@pytest.fixture(scope="session")
def machines(hosts: Hosts) -> Machines:
    return Machines(hosts)


@pytest.fixture(scope="session")
def doors(hosts: Hosts, certificates_directory: Path) -> dict[str, Door]:
    authority = certificates_directory / "issuer" / "ca.crt"
    return {host: Door(host, hosts.address(host), prefix, authority) for host, prefix in PREFIXES.items()}


@pytest.fixture(params=PREFIXES)
def door(request: pytest.FixtureRequest, doors: dict[str, Door]) -> Door:
    return doors[request.param]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = subprocess.run([ROOT / "tests/fixtures/chromium"], check=True, capture_output=True, text=True).stdout.strip()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def pictures() -> Path:
    """Where pictures are kept that a test takes."""
    directory = ROOT / "build" / "pictures"
    directory.mkdir(parents=True, exist_ok=True)
    return directory
