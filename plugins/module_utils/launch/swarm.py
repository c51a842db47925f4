# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is different in a swarm: a process is a service with replicas, in a network of the cluster's own.

Private to this collection.
"""

from __future__ import annotations

import posixpath
import typing as t
from dataclasses import replace

from ansible_collections.flotilla.dask.plugins.module_utils._digest import digest
from ansible_collections.flotilla.dask.plugins.module_utils.launch.layout import Layout
from ansible_collections.flotilla.dask.plugins.module_utils.launch.processes import (
    EVERYWHERE,
    IN_PROCESS,
    STOP_MARGIN,
    TASKS,
    TASKS_PER_THREAD,
    Process,
    address_of,
    authority,
    dask_command,
    memory_max,
    process_environment,
    worker_options,
)
from ansible_collections.flotilla.dask.plugins.module_utils.launch.settings import (
    LOOPBACK,
    Cluster,
    Containers,
    Host,
    Reader,
    Swarm,
    WorkerGroup,
    is_loopback,
)

SOMEWHERE = ""
"""Host of workers that a swarm runs wherever it has room."""

LONGEST_SERVICE = 63
"""Characters that the name of a service may have in a swarm."""

INSIDE = "scheduler"
"""The scheduler's name within the network of a swarm."""

SWARM_PORT = 2377

SLOT = "{{.Task.Slot}}"
"""What Docker Swarm replaces by the number of a replica, from 1 on; not necessarily without gaps."""

USER = "10001:10001"
"""Whom the image belongs to, for containers that need no account of their host."""

NAMED_BY_ITS_SLOT = ("sh", "-c", 'exec "$@" --name "$FLOTILLA_WORKER"', "sh")
"""Swarm knows a replica's number when that starts, and tells it in environment variables alone."""


def scheduler_service(scheduler: Process, cluster: Cluster, host: Host) -> Process:
    """The scheduler in a swarm's network: on its host, whose own ports are those that are published there."""
    ports = dict(scheduler.ports)
    if is_loopback(host.http_address):
        del ports["dashboard"]
    return replace(
        scheduler,
        ports=ports,
        listen=dict.fromkeys(ports, EVERYWHERE),
        publish=tuple(
            {"target": port, "published": port, "protocol": "tcp", "mode": "host"} for port in ports.values()
        ),
        constraints=("node.labels.{0}=={1}".format(node_labels(cluster)["host"], host.name),),
    )


def worker_service(
    cluster: Cluster, group: WorkerGroup, python: str, common: t.Mapping[str, str], place: Layout
) -> Process:
    """The workers of a group in a swarm. Each has an address of its own, so that all have the same ports."""
    worker = group.slot(SLOT)
    argv: tuple[str, ...] = (*NAMED_BY_ITS_SLOT, *dask_command(python, "dask_worker"))
    argv = (*argv, address_of(cluster, INSIDE, cluster.scheduler_port))
    argv += ("--worker-port", str(group.ports["worker"]), "--nanny-port", str(group.ports["nanny"]))
    argv += ("--dashboard-address", authority(EVERYWHERE, group.ports["dashboard"]))
    argv += worker_options(group, group.memory, place.spill)
    own = {"FLOTILLA_DRAIN_SECONDS": str(cluster.drain_seconds), "FLOTILLA_WORKER": worker}
    return Process(
        name="worker-" + group.name,
        kind="worker",
        worker=worker,
        group=group.name,
        argv=argv,
        environment=process_environment({**common, **own}, group.environment),
        ports={},
        listen={},
        memory_limit=group.memory,
        local_directory=place.spill,
        after=(),
        memory_max=memory_max(group.memory),
        tasks_max=TASKS + TASKS_PER_THREAD * group.threads,
        stop_seconds=cluster.drain_seconds + STOP_MARGIN,
        health="http://{0}/health".format(authority(LOOPBACK, group.ports["dashboard"])),
        publish=(),
        replicas=group.replicas,
        at_once=max(1, group.replicas // 2),  # what a worker holds moves to those that aren't stopping
        constraints=("node.labels.{0}==true".format(node_labels(cluster)["workers"]), *group.placement),
    )


def volumes(place: Layout, containers: Containers) -> list[str]:
    """What a container of a swarm has of its node: a volume of its own, and what was asked for."""
    return [
        place.state,
        *("{0}:{1}{2}".format(each.source, each.path, ":ro" if each.read_only else "") for each in containers.volumes),
    ]


def swarm_plan(
    cluster: Cluster,
    swarm: Swarm,
    host: Host,
    place: Layout,
    common: t.Mapping[str, str],
    settings: t.Mapping[str, t.Any],
) -> dict[str, t.Any]:
    """What the services of a cluster share, and what the host is among the nodes.

    ``managed_by``: the host that tells the swarm what to run. ``labels``: those of the node; ``drained``: those of one
    whose workers have to leave, which takes ``stop_seconds`` at most. ``scheduler``: its address
    within the network. ``files``: what comes from the scheduler's host with a container, to the same ``path``; each is
    named by its content, as a swarm's secrets and configurations never change. So other certificates are other secrets,
    which only new containers have.
    """
    form = digest([common["FLOTILLA_CONFIGURATION"], settings.get("dask_configuration_digest", "")])
    modules = posixpath.join(place.in_process, IN_PROCESS + ".py")
    files = [
        {"kind": "config", "key": "dask", "version": form, "path": place.dask_configuration},
        {"kind": "config", "key": "in_process", "version": common["FLOTILLA_IN_PROCESS"], "path": modules},
    ]
    if cluster.tls:
        version = digest([host.authorities, host.certificate])
        files.append({"kind": "secret", "key": "authorities", "version": version, "path": place.authorities})
        files.append({"kind": "secret", "key": "identity", "version": version, "path": place.identity})
    stack = "dask-" + cluster.name
    labels = node_labels(cluster)
    return {
        "stack": stack,
        "network": stack if swarm.encrypted else stack + "-plain",
        "encrypted": swarm.encrypted,
        "endpoint_mode": swarm.endpoint_mode,
        "manager": swarm.manager,
        "managed_by": settings.get("dask_scheduler_host", ""),
        "joined_at": authority(cluster.scheduler_host, SWARM_PORT),
        "labels": {
            labels["host"]: host.name,
            labels["workers"]: "true" if settings.get("dask_runs_workers", False) else "false",
        },
        "drained": {labels["host"]: host.name, labels["workers"]: "false"},
        "stop_seconds": cluster.drain_seconds + STOP_MARGIN,
        "scheduler": address_of(cluster, INSIDE, cluster.scheduler_port),
        "user": USER,
        "files": [{**each, "name": "-".join((stack, each["key"], each["version"]))} for each in files],
    }


def swarm_description(cluster: Cluster, place: Layout, settings: t.Mapping[str, t.Any]) -> dict[str, str]:
    """What whoever runs more in the cluster's swarm has to know."""
    return {
        "stack": "dask-" + cluster.name,
        "definitions": posixpath.join(place.configuration, "stack"),
        "scheduler": address_of(cluster, INSIDE, cluster.scheduler_port),
        "host": str(settings.get("dask_scheduler_host", "")),
        "host_label": node_labels(cluster)["host"],
        "user": USER,
    }


def node_labels(cluster: Cluster) -> dict[str, str]:
    """By which labels of the nodes a cluster knows its hosts: the name of each, and which ones are to have workers."""
    prefix = "flotilla.dask." + cluster.name
    return {"host": prefix + ".host", "workers": prefix + ".workers"}


def refuse_mixture(reader: Reader, launcher: str) -> None:
    """Who is in a swarm's network is reached by nobody outside of it, so that either all of a cluster is or nobody."""
    others = reader.settings.get("dask_scheduler_launcher", launcher)
    if "swarm" in (launcher, others) and launcher != others:
        reader.refuse(
            "dask_launcher", launcher, "swarm on all hosts of a cluster or on none; the scheduler has " + others
        )


def refuse_long_names(reader: Reader, cluster: Cluster, groups: t.Sequence[WorkerGroup]) -> None:
    for index, group in enumerate(groups):
        name = "dask-{0}_worker-{1}".format(cluster.name, group.name)
        if len(name) > LONGEST_SERVICE:
            reader.refuse(
                "dask_worker_groups[{0}].name".format(index),
                group.name,
                "a shorter one, as a swarm allows services {0} characters with the cluster's name".format(
                    LONGEST_SERVICE
                ),
            )
