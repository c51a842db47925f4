# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan itself: what runs on a host and all that follows from it, computed once for every launcher.

Private to this collection.
"""

from __future__ import annotations

import json
import posixpath
import typing as t
from dataclasses import asdict

from ansible_collections.flotilla.dask.plugins.module_utils._digest import digest
from ansible_collections.flotilla.dask.plugins.module_utils._locks import RATTLER
from ansible_collections.flotilla.dask.plugins.module_utils._secrets import IN_CONTAINERS as SECRETS_IN_CONTAINERS
from ansible_collections.flotilla.dask.plugins.module_utils.launch.layout import (
    ACCOUNT,
    CLIENT_PRELOAD,
    Layout,
    layout,
)
from ansible_collections.flotilla.dask.plugins.module_utils.launch.processes import (
    IN_PROCESS,
    Process,
    authority,
    memory_max,
    scheduler_address,
    scheduler_process,
    with_secrets,
    worker_name,
    worker_processes,
)
from ansible_collections.flotilla.dask.plugins.module_utils.launch.settings import (
    IN_CONTAINERS,
    Cluster,
    Containers,
    Environment,
    Host,
    Reader,
    WorkerGroup,
    is_loopback,
    read_cluster,
    read_containers,
    read_downloads,
    read_environment,
    read_groups,
    read_host,
    read_scheduler_memory,
    read_swarm,
    refuse_host_without_uv,
    refuse_missing_engine,
    refuse_public_secrets,
    refuse_small_nodes,
    refuse_unfit_node,
)
from ansible_collections.flotilla.dask.plugins.module_utils.launch.swarm import (
    SOMEWHERE,
    refuse_long_names,
    refuse_mixture,
    scheduler_service,
    swarm_description,
    swarm_plan,
    volumes,
    worker_service,
)

SUPERVISOR = "supervisor==4.3.0"

PROXY_ACCOUNT = "dask-proxy"
"""Account of the proxy, which the role dask_proxy makes."""

MONITORING_ACCOUNT = "prometheus"
"""Account of Prometheus, which its package makes."""


def launch_plan(settings: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Returns what runs on one host, and all that follows from it.

    :param settings: The collection-wide variables by their names (``dask_cluster_name``, ``dask_worker_groups`` …);
        ``dask_host``: a mapping like ``settings.Host``; ``dask_proxy_hosts`` and ``dask_monitoring_hosts``: names of
        hosts; ``dask_scheduler_host``: the inventory name of the scheduler's host; ``dask_scheduler_launcher``: what
        ``dask_launcher`` is there; ``dask_swarm_memory``: bytes of each node by its name, as far as they are known;
        ``dask_promised_workers``: the result of ``promised_workers``;
        ``dask_runs_scheduler`` and ``dask_runs_workers``: whether this host does; ``dask_in_process_digest``:
        identifies the text of the module that every process preloads; ``dask_configuration_digest`` that of the
        template of Dask's configuration, ``dask_image_recipe_digest`` that of what an image is built by.
    :raises SettingsError: with every value that was refused.
    """
    reader = Reader(settings)
    cluster = read_cluster(reader)
    runs_scheduler = bool(settings.get("dask_runs_scheduler", False))
    runs_workers = bool(settings.get("dask_runs_workers", False))
    replicated, in_batch = cluster.launcher == "swarm", cluster.launcher == "batch"
    if in_batch and runs_workers:
        reader.refuse("dask_launcher", "batch", "another one for hosts with workers; login hosts are in dask_login")
    if in_batch:
        runs_scheduler = runs_workers = False  # a task asks for them, and they run elsewhere
    # What a swarm runs is told to it on the scheduler's host; whoever is to have workers is a node.
    is_node, runs_workers = runs_scheduler or runs_workers, runs_scheduler if replicated else runs_workers
    host = read_host(reader, cluster, is_node)
    if is_node or in_batch:
        reader.problems += host.problems
    environment = read_environment(reader, host, installs=is_node or in_batch)
    downloads = read_downloads(reader)
    containers = read_containers(reader)
    swarm = read_swarm(reader)
    scheduler_memory = read_scheduler_memory(reader, host) if runs_scheduler else None
    groups = read_groups(reader, host, replicated) if runs_workers else []
    refuse_public_secrets(reader, cluster, groups)
    scope = _scope(cluster, host)
    launcher = _launcher(cluster, host, scope)
    _refuse_port_collisions(reader, cluster, [] if replicated else groups, host, runs_scheduler)
    _refuse_missing_rights(reader, host, scope, launcher)
    _refuse_other_launcher(reader, cluster, host, launcher)
    refuse_mixture(reader, launcher)
    software = environment.method != "existing" or environment.plugins or _bootstrap(environment, launcher)
    if software and (is_node or in_batch):
        refuse_host_without_uv(reader, environment, host)
    if launcher in IN_CONTAINERS and is_node:
        refuse_missing_engine(reader, cluster, launcher, containers, host)
        _refuse_unpackable_environment(reader, launcher, environment, containers)
    if replicated and is_node:
        refuse_long_names(reader, cluster, groups)
        refuse_unfit_node(reader, cluster, containers, swarm, host)
        refuse_small_nodes(
            reader,
            swarm,
            [
                ("dask_worker_groups[{0}]".format(index), group.replicas, memory_max(group.memory))
                for index, group in enumerate(groups)
            ],
        )
    reader.finish()

    place = layout(cluster.name, scope, cluster.home, host.user_directory)
    generation = posixpath.join(place.environments, _generation(environment))
    prefix = environment.path or generation
    plugins = posixpath.join(generation, "plugins") if environment.plugins else ""
    address = scheduler_address(cluster)
    # Where a job's processes spill and where its scheduler is differs from job to job.
    found_at = {} if in_batch else {"scheduler-address": address, "temporary-directory": place.spill}
    configuration = _merge({**found_at, **_encryption(cluster, place)}, cluster.configuration)
    common = {
        "DASK_CONFIG": place.dask_configuration,
        "FLOTILLA_CONFIGURATION": digest(configuration),
        "FLOTILLA_ENVIRONMENT": _generation(environment),
        "FLOTILLA_IN_PROCESS": str(settings.get("dask_in_process_digest", "")),
        "FLOTILLA_READERS": place.readers,
        "PYTHONPATH": ":".join((plugins, place.in_process) if plugins else (place.in_process,)),
    }
    if cluster.tls:
        common[CLIENT_PRELOAD] = json.dumps([IN_PROCESS, *_client_preload(configuration)])
    # Not the scheduler's, which need not restart, and lose everything, because of it.
    joining = {**common, "FLOTILLA_MISMATCH": cluster.environment_mismatch}
    python = posixpath.join(prefix, "bin/python")
    # Of processes alone: a person's command has that person's home, where Dask finds a certificate of their own.
    started_with = {"HOME": place.state} if scope == "system" else {}
    published = launcher == "docker" and containers.network == "bridge"
    processes = []
    if runs_scheduler:
        scheduler = scheduler_process(
            cluster, host, python, {**common, **started_with}, place, scheduler_memory, published or replicated
        )
        processes.append(scheduler_service(scheduler, cluster, host) if replicated else scheduler)
    joined_with = {**joining, **started_with}
    # systemd tells a process by itself.
    secrets_in = {"systemd": "-", **dict.fromkeys(IN_CONTAINERS, SECRETS_IN_CONTAINERS)}.get(launcher, "")
    for group in groups:
        if replicated:
            processes.append(worker_service(cluster, group, python, joined_with, place))
        else:
            processes += worker_processes(cluster, group, host, python, joined_with, place, runs_scheduler, published)
    by_name = {group.name: group for group in groups}
    processes = [with_secrets(each, cluster, by_name.get(each.group), place, secrets_in) for each in processes]

    writable = _writable(place, processes)
    account = ACCOUNT if scope == "system" else ""
    user = account or host.user
    return {
        "cluster": cluster.name,
        "scope": scope,
        "launcher": launcher,
        "user": user,
        "account": account,
        "address": host.address,
        "tls": cluster.tls,
        "firewall": cluster.firewall,
        "remove": cluster.remove,
        "directories": place.as_dict(),
        "writable": writable,
        "readers": _readers(settings, cluster, host),
        "environment": {
            **asdict(environment),
            "content": environment.content(),
            "generation": generation,
            "prefix": prefix,
            "python": python,
            "plugin_directory": plugins,
            "bootstrap": _bootstrap(environment, launcher),
        },
        "downloads": asdict(downloads),
        "containers": {
            "network": containers.network,
            "mounts": volumes(place, containers) if replicated else _mounts(place, writable, containers),
            "image": containers.image or _image(settings, containers, environment, host, prefix),
            "made_elsewhere": bool(containers.image),
            "base": containers.base,
            "registry": containers.registry,
        },
        "swarm": swarm_plan(cluster, swarm, host, place, common, settings) if replicated else {},
        # As a dictionary each, without copies of what they share: there may be many of them.
        "processes": [{**vars(process)} for process in processes],
        "configuration": configuration,
        "description": {
            "cluster": cluster.name,
            "launcher": launcher,
            "scheduler": "" if in_batch else address,
            "dashboard": _dashboard(cluster, host, replicated) if runs_scheduler else "",
            "python": python,
            "environment": joining,
            "identity": place.identity if cluster.tls else "",
            "user": user,
            "jobs": place.jobs,
            "members": place.members,
            "logs": _logs(cluster, launcher, place),
            "workers": settings.get("dask_promised_workers", []),
            "ports": sorted(port for process in processes for port in process.ports.values()),
            **({"swarm": swarm_description(cluster, place, settings)} if replicated else {}),
            **({"batch": _batch_description(cluster, place)} if in_batch else {}),
        },
    }


def promised_workers(groups_by_host: t.Mapping[str, t.Any]) -> list[dict[str, t.Any]]:
    """Returns name, dashboard port and group of every worker process that a cluster consists of.

    Needs no facts, so that any host can know it, also when a run is limited to some hosts. What is wrong in a group is
    left out here; ``launch_plan`` refuses it.

    :param groups_by_host: Host's name to its ``dask_worker_groups``, or None for the default. An empty name stands for
        whichever node of a swarm; workers there are promised by their number, as a swarm that has fewer replicas than
        before keeps any of them.
    """
    promised = []
    for name, value in groups_by_host.items():
        reader = Reader({"dask_worker_groups": value})
        if name == SOMEWHERE:
            promised += [
                {
                    "name": group.slot(number),
                    "host": SOMEWHERE,
                    "group": group.name,
                    "dashboard": group.ports["dashboard"],
                }
                for group in read_groups(reader, Host(name=name, address=""), replicated=True)
                for number in range(1, group.replicas + 1)
            ]
            continue
        for group in read_groups(reader, Host(name=name, address="", memory=2**60)):
            for index in range(group.processes):
                promised.append(
                    {
                        "name": worker_name(name, group, index),
                        "host": name,
                        "group": group.name,
                        "dashboard": group.ports["dashboard"] + index,
                    }
                )
    return promised


def _batch_description(cluster: Cluster, place: Layout) -> dict[str, t.Any]:
    """What a login host has for clusters inside batch jobs, beside what any cluster has."""
    return {
        "authorities": place.authorities if cluster.tls else "",
        "directory": posixpath.join(place.state, "batch"),
        "tls": cluster.tls,
    }


def _generation(environment: Environment) -> str:
    return "{0}-{1}".format(environment.name, digest(environment.content()))


def _bootstrap(environment: Environment, launcher: str) -> list[str]:
    """What has to be on a host before the environment, and the processes, can be made; in an environment of its own."""
    needed = [SUPERVISOR] if launcher == "supervisor" else []
    return needed + ([RATTLER] if environment.method == "conda" else [])


def _readers(settings: t.Mapping[str, t.Any], cluster: Cluster, host: Host) -> list[str]:
    """The accounts that may read the pages of processes over the host's own network, beside root and the cluster's."""
    readers = set(cluster.http_users)
    for setting, account in (("dask_proxy_hosts", PROXY_ACCOUNT), ("dask_monitoring_hosts", MONITORING_ACCOUNT)):
        if host.name in settings.get(setting, ()):
            readers.add(account)
    return sorted(readers)


def _writable(place: Layout, processes: t.Iterable[Process]) -> list[str]:
    """The directories that processes write to."""
    return [place.state, *sorted({process.local_directory for process in processes} - {place.spill})]


def _mounts(place: Layout, writable: t.Iterable[str], containers: Containers) -> list[str]:
    """What a container has of its host, as Docker and Compose write it.

    The host's accounts are in it because the files that it mounts belong to one of them.
    """
    mounts = ["{0}:{0}:ro".format(path) for path in ("/etc/group", "/etc/passwd", place.configuration)]
    mounts += ["{0}:{0}:rw".format(path) for path in writable]
    for volume in containers.volumes:
        mounts.append("{0}:{1}:{2}".format(volume.source, volume.path, "ro" if volume.read_only else "rw"))
    return mounts


def _image(
    settings: t.Mapping[str, t.Any], containers: Containers, environment: Environment, host: Host, prefix: str
) -> str:
    """The name of the image that is made from the cluster's environment: the same for the same content."""
    made_from = [containers.base, host.platform, prefix, str(settings.get("dask_image_recipe_digest", ""))]
    name = "{0}:{1}-{2}".format(containers.repository, _generation(environment), digest(made_from))
    return posixpath.join(containers.registry, name)


def _scope(cluster: Cluster, host: Host) -> str:
    if cluster.scope == "auto":
        return "system" if host.root and cluster.launcher != "batch" else "user"
    return cluster.scope


def _launcher(cluster: Cluster, host: Host, scope: str) -> str:
    if cluster.launcher == "auto":
        return "systemd" if host.service_manager == "systemd" and scope == "system" else "supervisor"
    return cluster.launcher


def _logs(cluster: Cluster, launcher: str, place: Layout) -> str:
    """How a person reads the logs of this host's processes."""
    if launcher == "systemd":
        return "journalctl -u 'dask-{0}-*'".format(cluster.name)
    if launcher == "batch":
        return "ls -d {0}/batch/*/jobs/*".format(place.state)
    if launcher == "swarm":
        return "docker service logs dask-{0}_scheduler".format(cluster.name)
    if launcher == "docker":
        return "docker logs dask-{0}-scheduler".format(cluster.name)
    return "tail {0}/*.log".format(place.logs)


def _encryption(cluster: Cluster, place: Layout) -> dict[str, t.Any]:
    """Dask's configuration for mutual TLS: every process is whoever its host is, and refuses plain connections."""
    if not cluster.tls:
        return {}
    tls: dict[str, t.Any] = {"ca-file": place.authorities, "min-version": 1.3}
    tls.update({role: {"cert": place.identity, "key": place.identity} for role in ("scheduler", "worker", "client")})
    encryption = {"distributed": {"comm": {"default-scheme": "tls", "require-encryption": True, "tls": tls}}}
    if {"logging", "logging-file-config"} & {*cluster.configuration, *_mapping(cluster.configuration, "distributed")}:
        return encryption
    # Else the output of every job begins with what its clients load.
    return {**encryption, "logging": {"distributed.preloading": "warning"}}


def _client_preload(configuration: t.Mapping[str, t.Any]) -> list[t.Any]:
    """What the user has every client load first."""
    preload = _mapping(_mapping(configuration, "distributed"), "client").get("preload") or []
    return [preload] if isinstance(preload, str) else list(preload)


def _mapping(configuration: t.Mapping[str, t.Any], key: str) -> t.Mapping[str, t.Any]:
    value = configuration.get(key)
    return value if isinstance(value, t.Mapping) else {}


def _dashboard(cluster: Cluster, host: Host, replicated: bool) -> str:
    if replicated and is_loopback(host.http_address):
        return ""  # a swarm publishes on all addresses or none
    return "http://{0}/status".format(authority(host.http_address, cluster.scheduler_dashboard_port))


def _merge(base: t.Mapping[str, t.Any], other: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    result = dict(base)
    for key, value in other.items():
        mine = result.get(key)
        result[key] = _merge(mine, value) if isinstance(mine, t.Mapping) and isinstance(value, t.Mapping) else value
    return result


def _refuse_port_collisions(
    reader: Reader, cluster: Cluster, groups: t.Sequence[WorkerGroup], host: Host, runs_scheduler: bool
) -> None:
    """Every port of the host has one owner: this cluster's scheduler, one of its groups, or another cluster."""
    spans: list[tuple[int, int, str]] = []
    if runs_scheduler:
        spans.append((cluster.scheduler_port, cluster.scheduler_port, "dask_scheduler_port"))
        port = cluster.scheduler_dashboard_port
        spans.append((port, port, "dask_scheduler_dashboard_port"))
    for index, group in enumerate(groups):
        for kind, first in group.ports.items():
            variable = "dask_worker_groups[{0}].ports.{1}".format(index, kind)
            spans.append((first, first + group.processes - 1, variable))
    for first, last, variable in spans:
        for port, owner in sorted(host.taken.items()):
            if first <= port <= last:
                reader.refuse(
                    variable,
                    _span(first, last),
                    "ports of host {0} that cluster {1} doesn't use".format(host.name, owner),
                )
                break
    spans.sort()
    for (first, last, variable), (next_first, next_last, next_variable) in zip(spans, spans[1:]):
        if next_first <= last:
            reader.refuse(
                next_variable,
                _span(next_first, next_last),
                "ports that don't overlap with {0} ({1})".format(variable, _span(first, last)),
            )


def _refuse_missing_rights(reader: Reader, host: Host, scope: str, launcher: str) -> None:
    """A launcher gets what it needs: root for the system's directories, systemd as process 1 for its units."""
    if scope == "system" and not host.root:
        reader.refuse(
            "dask_scope", scope, "user, or a play with root on host {0} (ansible_become: true)".format(host.name)
        )
    if launcher == "batch" and scope == "system":
        reader.refuse("dask_scope", scope, "user with dask_launcher batch, as jobs run as who submits them")
    if launcher in ("systemd", *IN_CONTAINERS) and scope == "user":
        reader.refuse("dask_launcher", launcher, "supervisor for dask_scope user")
    if launcher == "systemd" and host.service_manager != "systemd":
        reader.refuse("dask_launcher", launcher, "supervisor, as process 1 of host {0} isn't systemd".format(host.name))


def _refuse_other_launcher(reader: Reader, cluster: Cluster, host: Host, launcher: str) -> None:
    """What one launcher started, no other one finds to stop it: neither now nor in a teardown."""
    if host.launcher not in ("", launcher):
        reader.refuse(
            "dask_launcher",
            launcher,
            "{0}, which runs cluster {1} on host {2}. To change it, remove the cluster first, with this value and the "
            "playbook flotilla.dask.teardown".format(host.launcher, cluster.name, host.name),
        )


def _refuse_unpackable_environment(
    reader: Reader, launcher: str, environment: Environment, containers: Containers
) -> None:
    """An image is made from an environment of the collection's own, or was made elsewhere."""
    if environment.method == "existing" and not containers.image:
        reader.refuse(
            "dask_environment_method",
            environment.method,
            "conda or venv with dask_launcher {0}, or in dask_image the name of an image that has this "
            "environment".format(launcher),
        )


def _span(first: int, last: int) -> str:
    return str(first) if first == last else "{0}-{1}".format(first, last)
