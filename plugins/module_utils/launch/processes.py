# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The processes of a cluster: their command lines, ports, names and shares of memory, the same for every launcher.

Private to this collection.
"""

from __future__ import annotations

import posixpath
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.flotilla.dask.plugins.module_utils._secrets import (
    DIRECTORY,
    NAMES,
    PLACEHOLDER,
    VERSION,
    set_of,
)
from ansible_collections.flotilla.dask.plugins.module_utils.launch import memory
from ansible_collections.flotilla.dask.plugins.module_utils.launch.layout import Layout, own_directory
from ansible_collections.flotilla.dask.plugins.module_utils.launch.settings import (
    LOOPBACK,
    Cluster,
    Host,
    WorkerGroup,
)

IN_PROCESS = "flotilla_in_process"
"""The module that every process preloads: ``module_utils/_in_process.py``, as it is called where it is installed."""

STOP_MARGIN = 30
"""Seconds that a launcher gives a process to stop, beyond those for its drain."""

BURST_SHARE, BURST_LEAST = 4, 256 * 2**20
"""Room above a worker's memory limit, for its nanny and for what a task allocates before the nanny sees it: a share of
the limit (one in four), and at least so many bytes."""

TASKS = 1024

TASKS_PER_THREAD = 128
"""Threads and processes of a unit: far more than Dask needs, as each of a worker's threads may bring a pool of its own
for every core, and far fewer than make a host unusable."""

EVERYWHERE = "0.0.0.0"
"""What a process in a network of its own listens on; who reaches it is for whoever publishes its ports to say."""


@dataclass(frozen=True)
class Process:
    """One operating-system process that a launcher keeps running; or the replicas of one, that a swarm runs somewhere.

    ``name``: unique on the host among the cluster's processes. ``worker``: the name that Dask knows it by, unique in
    the cluster; empty for a scheduler. ``memory_limit``: bytes, or None. ``ports`` and ``listen``: purpose to TCP port
    of the host, and to the address that it listens on. ``after``: processes of this host that start before it.
    ``memory_max`` (bytes, or None) and ``tasks_max``: what the launcher lets it and its children have.
    ``stop_seconds``: how long a stop may take, its drain included. ``health``: address that answers while it is well,
    as it is seen by the process itself. ``publish``: its ports as Docker and Compose write them, where it has a network
    of its own. ``secrets``: their names, and ``secrets_directory`` where the host has a file for each, which the
    launcher hands on. ``replicas``: how many of it a swarm runs, and ``at_once``: how many of these it may replace at
    once; ``constraints``: what it demands of their nodes.
    """

    name: str
    kind: str
    worker: str
    group: str
    argv: tuple[str, ...]
    environment: t.Mapping[str, str]
    ports: t.Mapping[str, int]
    listen: t.Mapping[str, str]
    memory_limit: int | None
    local_directory: str
    after: tuple[str, ...]
    memory_max: int | None
    tasks_max: int
    stop_seconds: int
    health: str
    publish: tuple[t.Any, ...]
    secrets: tuple[str, ...] = ()
    secrets_directory: str = ""
    replicas: int = 1
    at_once: int = 1
    constraints: tuple[str, ...] = ()


def scheduler_process(
    cluster: Cluster,
    host: Host,
    python: str,
    common: t.Mapping[str, str],
    place: Layout,
    memory_max: int | None,
    published: bool,
) -> Process:
    argv = dask_command(python, "dask_scheduler")
    argv += ("--protocol", _protocol(cluster))
    argv += ("--host", EVERYWHERE if published else cluster.scheduler_host, "--port", str(cluster.scheduler_port))
    argv += ("--dashboard-address", _http(host, cluster.scheduler_dashboard_port, published))
    ports = {"scheduler": cluster.scheduler_port, "dashboard": cluster.scheduler_dashboard_port}
    listen = {"scheduler": cluster.scheduler_host, "dashboard": host.http_address}
    if published:
        common = {**common, "DASK_DISTRIBUTED__SCHEDULER__CONTACT_ADDRESS": scheduler_address(cluster)}
    for module in (IN_PROCESS, *cluster.scheduler_preload):
        argv += ("--preload", module)
    return Process(
        name="scheduler",
        kind="scheduler",
        worker="",
        group="",
        argv=argv,
        environment=process_environment(common, cluster.scheduler_environment),
        ports=ports,
        listen=listen,
        memory_limit=None,
        local_directory=place.spill,
        after=(),
        memory_max=memory_max,
        tasks_max=TASKS,
        stop_seconds=STOP_MARGIN,
        health=_health(host, cluster.scheduler_dashboard_port, published),
        publish=_publish(ports, listen) if published else (),
    )


def worker_processes(
    cluster: Cluster,
    group: WorkerGroup,
    host: Host,
    python: str,
    common: t.Mapping[str, str],
    place: Layout,
    beside_scheduler: bool,
    published: bool,
) -> t.Iterator[Process]:
    limit = memory.share(group.memory, group.processes)
    own = own_directory(cluster.name)
    environment = process_environment(
        {**common, "FLOTILLA_DRAIN_SECONDS": str(cluster.drain_seconds)},
        group.environment,
    )
    local_directory = posixpath.join(group.local_directory, own) if group.local_directory else place.spill
    for index in range(group.processes):
        ports = {kind: first + index for kind, first in group.ports.items()}
        listen = {"worker": host.address, "nanny": host.address, "dashboard": host.http_address}
        worker = worker_name(host.name, group, index)
        argv = (*dask_command(python, "dask_worker"), scheduler_address(cluster), "--name", worker)
        if published:
            contact = {kind: address_of(cluster, host.address, ports[kind]) for kind in ("worker", "nanny")}
            argv += ("--listen-address", address_of(cluster, EVERYWHERE, ports["worker"]))
            argv += ("--contact-address", contact["worker"])
            environment = {**environment, "FLOTILLA_NANNY_ADDRESS": contact["nanny"]}  # for which Dask has no option
        else:
            argv += ("--host", host.address, "--worker-port", str(ports["worker"]))
        argv += ("--nanny-port", str(ports["nanny"]))
        argv += ("--dashboard-address", _http(host, ports["dashboard"], published))
        argv += worker_options(group, limit, local_directory)
        yield Process(
            name="worker-{0}-{1}".format(group.name, index),
            kind="worker",
            worker=worker,
            group=group.name,
            argv=argv,
            environment=environment,
            ports=ports,
            listen=listen,
            memory_limit=limit,
            local_directory=local_directory,
            after=("scheduler",) if beside_scheduler else (),
            memory_max=memory_max(limit),
            tasks_max=TASKS + TASKS_PER_THREAD * group.threads,
            stop_seconds=cluster.drain_seconds + STOP_MARGIN,
            health=_health(host, ports["dashboard"], published),
            publish=_publish(ports, listen) if published else (),
        )


def worker_options(group: WorkerGroup, limit: int, local_directory: str) -> tuple[str, ...]:
    argv: tuple[str, ...] = ("--nthreads", str(group.threads), "--memory-limit", str(limit))
    argv += ("--local-directory", local_directory)
    if group.resources:
        argv += ("--resources", " ".join("{0}={1}".format(*item) for item in sorted(group.resources.items())))
    argv += ("--preload-nanny", IN_PROCESS)
    for module in (IN_PROCESS, *group.preload):
        argv += ("--preload", module)
    return argv


def worker_name(host: str, group: WorkerGroup, index: int) -> str:
    return "{0}-{1}-{2}".format(host, group.name, index)


def memory_max(limit: int) -> int:
    return limit + max(limit // BURST_SHARE, BURST_LEAST)


def process_environment(common: t.Mapping[str, str], own: t.Mapping[str, str]) -> dict[str, str]:
    """The user's variables and ours; ``PYTHONPATH`` is the one that both may set, ours first."""
    result = {**own, **common}
    path = [each["PYTHONPATH"] for each in (common, own) if each.get("PYTHONPATH")]
    if path:
        result["PYTHONPATH"] = ":".join(path)
    return {name: result[name] for name in sorted(result)}


def with_secrets(
    process: Process, cluster: Cluster, group: WorkerGroup | None, place: Layout, read_from: str
) -> Process:
    """Returns a process that has the secrets of the cluster and of its group; the same one where there are none.

    :param read_from: The directory that it reads them from: empty for that of the host, ``-`` where the launcher names
        it to the process.
    """
    names = tuple(sorted({*cluster.secrets, *(group.secrets if group else ())}))
    if not names:
        return process
    directory = posixpath.join(place.secrets, set_of(process.kind, process.group))
    environment = {**process.environment, NAMES: " ".join(names), VERSION: PLACEHOLDER}
    if read_from != "-":
        environment[DIRECTORY] = read_from or directory
    return replace(
        process,
        environment={name: environment[name] for name in sorted(environment)},
        secrets=names,
        secrets_directory=directory,
    )


def dask_command(python: str, module: str) -> tuple[str, ...]:
    return (python, "-m", "distributed.cli." + module)


def authority(host: str, port: int) -> str:
    """Host and port as in a URL."""
    return "[{0}]:{1}".format(host, port) if ":" in host else "{0}:{1}".format(host, port)


def scheduler_address(cluster: Cluster) -> str:
    return address_of(cluster, cluster.scheduler_host, cluster.scheduler_port)


def address_of(cluster: Cluster, host: str, port: int) -> str:
    return "{0}://{1}".format(_protocol(cluster), authority(host, port))


def _protocol(cluster: Cluster) -> str:
    return "tls" if cluster.tls else "tcp"


def _http(host: Host, port: int, published: bool) -> str:
    """What a process is told to serve HTTP on: where it is published, the host's address isn't the process's own."""
    return authority(EVERYWHERE if published else host.http_address, port)


def _publish(ports: t.Mapping[str, int], listen: t.Mapping[str, str]) -> tuple[str, ...]:
    return tuple("{0}:{1}".format(authority(listen[purpose], port), port) for purpose, port in ports.items())


def _health(host: Host, port: int, published: bool) -> str:
    return "http://{0}/health".format(authority(LOOPBACK if published else host.http_address, port))
