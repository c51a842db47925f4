# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fixtures of all scenarios."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from testbed import Ansible, Cluster, Hosts, Machines


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
def cluster(ansible: Ansible, hosts: Hosts) -> Cluster:
    return Cluster(ansible, hosts)


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
