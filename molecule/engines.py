# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers on hosts that have an engine of their own."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from testbed import Ansible, Cluster, Hosts, Result
from testinfra.host import Host

# Opens each address, and says which port isn't served.
KNOCK = """
import socket, sys
for text in sys.argv[1:]:
    host, port = text.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 5).close()
    except OSError as error:
        print(text, error)
"""

NANNIES = """
from distributed import Client
with Client() as client:
    print(*(worker["nanny"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()))
"""


@dataclass(frozen=True)
class Container:
    """The container of one process of the cluster `main`, or one with another prefix to its name."""

    host: Host
    process: str
    prefix: str = "dask-main-"

    @property
    def name(self) -> str:
        return self.prefix + self.process

    @property
    def argv(self) -> list[str]:
        words: list[str] = self.inspect()["Config"]["Cmd"]
        return words

    def inspect(self) -> Result:
        return inspect(self.host, self.name)

    def is_healthy(self) -> bool:
        return bool(self.inspect()["State"]["Health"]["Status"] == "healthy")

    def run(self, command: str) -> str:
        """What a shell says inside."""
        return str(self.host.check_output(f"docker exec {self.name} sh -c {shlex.quote(command)}"))

    def execute(self, *command: str, environment: Mapping[str, str] | None = None) -> Any:
        words = [word for item in (environment or {}).items() for word in ("--env", "=".join(item))]
        return self.host.run(shlex.join(["docker", "exec", *words, self.name, *command]))


def inspect(host: Host, name: str) -> Result:
    """What Docker knows of a container or an image."""
    found: list[Result] = json.loads(host.check_output(f"docker inspect {name}"))
    return found[0]


def containers(host: Host) -> list[str]:
    """The processes of the cluster `main` that have a container on a host."""
    listing = host.check_output("docker ps --all --filter label=flotilla.dask.cluster=main --format '{{.Names}}'")
    return sorted(name.removeprefix("dask-main-") for name in listing.split())


def containers_of(host: Host, stack: str) -> list[Container]:
    """The containers that a stack has on a host."""
    listing = host.check_output(
        f"docker ps --filter label=com.docker.stack.namespace={stack} --format '{{{{.Names}}}}'"
    )
    return [Container(host, name, prefix="") for name in listing.split()]


def site(ansible: Ansible, *options: str, **extra_vars: object) -> dict[str, list[str]]:
    """Runs the playbook site, which succeeds, and returns what it changed."""
    run = ansible.playbook("flotilla.dask.site", *options, extra_vars=extra_vars)
    assert run.ok, run.problems
    return run.changed


def knock(host: Host, *addresses: str) -> str:
    """Those of the addresses, as HOST:PORT, that a host does not reach."""
    return str(host.check_output(f"python3 -c {shlex.quote(KNOCK)} {' '.join(addresses)}"))


def check_addresses(cluster: Cluster, hosts: Hosts) -> None:
    """Every process is where the inventory says, says so itself, and is reached there from all hosts."""
    names = list(hosts.group("dask_workers"))
    places = {
        f"{host}-cpu-{index}": (hosts.address(host), 9000 + index, 9100 + index) for host in names for index in (0, 1)
    }
    told = {each["name"]: each for each in cluster.state(wait=300)["workers"]}
    assert {name: each["address"] for name, each in told.items()} == {
        name: f"tls://{address}:{worker}" for name, (address, worker, _nanny) in places.items()
    }
    assert {name: each["dashboard_port"] for name, each in told.items()} == {
        name: worker + 200 for name, (_address, worker, _nanny) in places.items()
    }
    job = cluster.job("nannies", script="nannies.py", content=NANNIES)
    cluster.job("nannies", state="absent")
    nannies = set(job["job"]["output"].split())
    assert nannies == {f"tls://{address}:{nanny}" for address, _worker, nanny in places.values()}
    ports = [f"{address}:{port}" for address, *both in places.values() for port in both]
    for host in names:
        assert knock(hosts[host], *ports, f"{hosts.address('scheduler')}:8786") == ""
