# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan itself: command lines, ports, names and shares of memory, computed once for every launcher.

Private to this collection.
"""

from __future__ import annotations

import posixpath
import typing as t
from dataclasses import asdict, dataclass

from ansible_collections.flotilla.dask.plugins.module_utils._digest import digest
from ansible_collections.flotilla.dask.plugins.module_utils._locks import RATTLER
from ansible_collections.flotilla.dask.plugins.module_utils.launch import memory
from ansible_collections.flotilla.dask.plugins.module_utils.launch.layout import Layout, layout
from ansible_collections.flotilla.dask.plugins.module_utils.launch.settings import (
    Cluster,
    Environment,
    Host,
    Reader,
    WorkerGroup,
    read_cluster,
    read_downloads,
    read_environment,
    read_groups,
    read_host,
    read_scheduler_memory,
)

ACCOUNT = "dask"
"""The account that runs processes of scope ``system``."""

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

SUPERVISOR = "supervisor==4.3.0"


@dataclass(frozen=True)
class Process:
    """One operating-system process that a launcher keeps running.

    ``name``: unique on the host among the cluster's processes. ``worker``: the name that Dask knows it by, unique in
    the cluster; empty for a scheduler. ``memory_limit``: bytes, or None. ``ports`` and ``listen``: purpose to TCP port,
    and to the address that it listens on. ``after``: processes of this host that start before it. ``memory_max``
    (bytes, or None) and ``tasks_max``: what the launcher lets it and its children have. ``stop_seconds``: how long a
    stop may take, its drain included.
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


def launch_plan(settings: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Returns what runs on one host, and all that follows from it.

    :param settings: The collection-wide variables by their names (``dask_cluster_name``, ``dask_worker_groups`` …);
        ``dask_host``: a mapping like ``settings.Host``; ``dask_proxy_hosts`` and ``dask_monitoring_hosts``: names of
        hosts; ``dask_promised_workers``: the result of ``promised_workers``;
        ``dask_runs_scheduler`` and ``dask_runs_workers``: whether this host does; ``dask_in_process_digest``:
        identifies the text of the module that every process preloads.
    :raises SettingsError: with every value that was refused.
    """
    reader = Reader(settings)
    cluster = read_cluster(reader)
    runs_scheduler = bool(settings.get("dask_runs_scheduler", False))
    runs_workers = bool(settings.get("dask_runs_workers", False))
    host = read_host(reader, cluster, runs_scheduler or runs_workers)
    environment = read_environment(reader, host)
    downloads = read_downloads(reader)
    scheduler_memory = read_scheduler_memory(reader, host) if runs_scheduler else None
    groups = read_groups(reader, host) if runs_workers else []
    scope = _scope(cluster, host)
    launcher = _launcher(cluster, host, scope)
    _refuse_port_collisions(reader, cluster, groups, host, runs_scheduler)
    _refuse_missing_rights(reader, host, scope, launcher)
    reader.finish()

    place = layout(cluster.name, scope, cluster.home, host.user_directory)
    generation = posixpath.join(place.environments, _generation(environment))
    prefix = environment.path or generation
    plugins = posixpath.join(generation, "plugins") if environment.plugins else ""
    address = _scheduler_address(cluster)
    configuration = _merge(
        {"scheduler-address": address, "temporary-directory": place.spill, **_encryption(cluster, place)},
        cluster.configuration,
    )
    common = {
        "DASK_CONFIG": place.dask_configuration,
        "FLOTILLA_CONFIGURATION": digest(configuration),
        "FLOTILLA_ENVIRONMENT": _generation(environment),
        "FLOTILLA_IN_PROCESS": str(settings.get("dask_in_process_digest", "")),
        "PYTHONPATH": ":".join((plugins, place.in_process) if plugins else (place.in_process,)),
    }
    # Not the scheduler's, which need not restart, and lose everything, because of it.
    joining = {**common, "FLOTILLA_MISMATCH": cluster.environment_mismatch}
    python = posixpath.join(prefix, "bin/python")
    # Of processes alone: a person's command has that person's home, where Dask finds a certificate of their own.
    started_with = {"HOME": place.state} if scope == "system" else {}
    if cluster.tls:
        # Dask reads certificates when a process starts, so that other ones have to restart it.
        started_with["FLOTILLA_CERTIFICATES"] = digest([host.authorities, host.certificate])
    processes = []
    if runs_scheduler:
        processes.append(_scheduler(cluster, host, python, {**common, **started_with}, place, scheduler_memory))
    for group in groups:
        processes.extend(_workers(cluster, group, host, python, {**joining, **started_with}, place, runs_scheduler))

    spill = {process.local_directory for process in processes}
    user = ACCOUNT if scope == "system" else host.user
    return {
        "cluster": cluster.name,
        "scope": scope,
        "launcher": launcher,
        "user": user,
        "address": host.address,
        "tls": cluster.tls,
        "firewall": cluster.firewall,
        "directories": place.as_dict(),
        "writable": [place.state, *sorted(spill - {place.spill})],
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
        # As a dictionary each, without copies of what they share: there may be many of them.
        "processes": [{**vars(process)} for process in processes],
        "configuration": configuration,
        "description": {
            "cluster": cluster.name,
            "scheduler": address,
            "dashboard": _dashboard(cluster, host) if runs_scheduler else "",
            "python": python,
            "environment": joining,
            "identity": place.identity if cluster.tls else "",
            "user": user,
            "jobs": place.jobs,
            "logs": _logs(cluster, launcher, place),
            "workers": settings.get("dask_promised_workers", []),
            "ports": sorted(port for process in processes for port in process.ports.values()),
        },
    }


def promised_workers(groups_by_host: t.Mapping[str, t.Any]) -> list[dict[str, t.Any]]:
    """Returns name, dashboard port and group of every worker process that a cluster consists of.

    Needs no facts, so that any host can know it, also when a run is limited to some hosts. What is wrong in a group is
    left out here; ``launch_plan`` refuses it.

    :param groups_by_host: Host's name to its ``dask_worker_groups``, or None for the default.
    """
    promised = []
    for name, value in groups_by_host.items():
        reader = Reader({"dask_worker_groups": value})
        for group in read_groups(reader, Host(name=name, address="", memory=2**60)):
            for index in range(group.processes):
                promised.append(
                    {
                        "name": _worker_name(name, group, index),
                        "host": name,
                        "group": group.name,
                        "dashboard": group.ports["dashboard"] + index,
                    }
                )
    return promised


def _generation(environment: Environment) -> str:
    return "{0}-{1}".format(environment.name, digest(environment.content()))


def _bootstrap(environment: Environment, launcher: str) -> list[str]:
    """What has to be on a host before the environment, and the processes, can be made; in an environment of its own."""
    needed = [SUPERVISOR] if launcher == "supervisor" else []
    return needed + ([RATTLER] if environment.method == "conda" else [])


def _scope(cluster: Cluster, host: Host) -> str:
    if cluster.scope == "auto":
        return "system" if host.root else "user"
    return cluster.scope


def _launcher(cluster: Cluster, host: Host, scope: str) -> str:
    if cluster.launcher == "auto":
        return "systemd" if host.service_manager == "systemd" and scope == "system" else "supervisor"
    return cluster.launcher


def _logs(cluster: Cluster, launcher: str, place: Layout) -> str:
    """How a person reads the logs of this host's processes."""
    if launcher == "systemd":
        return "journalctl -u 'dask-{0}-*'".format(cluster.name)
    return "tail {0}/*.log".format(place.logs)


def authority(host: str, port: int) -> str:
    """Host and port as in a URL."""
    return "[{0}]:{1}".format(host, port) if ":" in host else "{0}:{1}".format(host, port)


def _scheduler_address(cluster: Cluster) -> str:
    return "{0}://{1}".format(_protocol(cluster), authority(cluster.scheduler_host, cluster.scheduler_port))


def _protocol(cluster: Cluster) -> str:
    return "tls" if cluster.tls else "tcp"


def _encryption(cluster: Cluster, place: Layout) -> dict[str, t.Any]:
    """Dask's configuration for mutual TLS: every process is whoever its host is, and refuses plain connections."""
    if not cluster.tls:
        return {}
    tls: dict[str, t.Any] = {"ca-file": place.authorities, "min-version": 1.3}
    tls.update({role: {"cert": place.identity, "key": place.identity} for role in ("scheduler", "worker", "client")})
    return {"distributed": {"comm": {"default-scheme": "tls", "require-encryption": True, "tls": tls}}}


def _dashboard(cluster: Cluster, host: Host) -> str:
    return "http://{0}/status".format(authority(host.http_address, cluster.scheduler_dashboard_port))


def _worker_name(host: str, group: WorkerGroup, index: int) -> str:
    return "{0}-{1}-{2}".format(host, group.name, index)


def _module(python: str, module: str) -> tuple[str, ...]:
    return (python, "-m", "distributed.cli." + module)


def _scheduler(
    cluster: Cluster,
    host: Host,
    python: str,
    common: t.Mapping[str, str],
    place: Layout,
    memory_max: int | None,
) -> Process:
    argv = _module(python, "dask_scheduler")
    argv += ("--protocol", _protocol(cluster))
    argv += ("--host", cluster.scheduler_host, "--port", str(cluster.scheduler_port))
    argv += ("--dashboard-address", authority(host.http_address, cluster.scheduler_dashboard_port))
    for module in (IN_PROCESS, *cluster.scheduler_preload):
        argv += ("--preload", module)
    return Process(
        name="scheduler",
        kind="scheduler",
        worker="",
        group="",
        argv=argv,
        environment=_environment(common, cluster.scheduler_environment),
        ports={"scheduler": cluster.scheduler_port, "dashboard": cluster.scheduler_dashboard_port},
        listen={"scheduler": cluster.scheduler_host, "dashboard": host.http_address},
        memory_limit=None,
        local_directory=place.spill,
        after=(),
        memory_max=memory_max,
        tasks_max=TASKS,
        stop_seconds=STOP_MARGIN,
    )


def _workers(
    cluster: Cluster,
    group: WorkerGroup,
    host: Host,
    python: str,
    common: t.Mapping[str, str],
    place: Layout,
    beside_scheduler: bool,
) -> t.Iterator[Process]:
    limit = memory.share(group.memory, group.processes)
    # A directory of the cluster's own below what the user named, as it changes owner and goes with the cluster.
    own = "dask-" + cluster.name
    environment = _environment(
        {**common, "FLOTILLA_DRAIN_SECONDS": str(cluster.drain_seconds)},
        group.environment,
    )
    local_directory = posixpath.join(group.local_directory, own) if group.local_directory else place.spill
    for index in range(group.processes):
        ports = {kind: first + index for kind, first in group.ports.items()}
        worker = _worker_name(host.name, group, index)
        argv = (*_module(python, "dask_worker"), _scheduler_address(cluster), "--name", worker, "--host", host.address)
        argv += ("--worker-port", str(ports["worker"]), "--nanny-port", str(ports["nanny"]))
        argv += ("--dashboard-address", authority(host.http_address, ports["dashboard"]))
        argv += ("--nthreads", str(group.threads), "--memory-limit", str(limit))
        argv += ("--local-directory", local_directory)
        if group.resources:
            argv += ("--resources", " ".join("{0}={1}".format(*item) for item in sorted(group.resources.items())))
        argv += ("--preload-nanny", IN_PROCESS)
        for module in (IN_PROCESS, *group.preload):
            argv += ("--preload", module)
        yield Process(
            name="worker-{0}-{1}".format(group.name, index),
            kind="worker",
            worker=worker,
            group=group.name,
            argv=argv,
            environment=environment,
            ports=ports,
            listen={"worker": host.address, "nanny": host.address, "dashboard": host.http_address},
            memory_limit=limit,
            local_directory=local_directory,
            after=("scheduler",) if beside_scheduler else (),
            memory_max=limit + max(limit // BURST_SHARE, BURST_LEAST),
            tasks_max=TASKS + TASKS_PER_THREAD * group.threads,
            stop_seconds=cluster.drain_seconds + STOP_MARGIN,
        )


def _environment(common: t.Mapping[str, str], own: t.Mapping[str, str]) -> dict[str, str]:
    """The user's variables and ours; ``PYTHONPATH`` is the one that both may set, ours first."""
    result = {**own, **common}
    path = [each["PYTHONPATH"] for each in (common, own) if each.get("PYTHONPATH")]
    if path:
        result["PYTHONPATH"] = ":".join(path)
    return {name: result[name] for name in sorted(result)}


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
    if launcher == "systemd" and scope == "user":
        reader.refuse("dask_launcher", launcher, "supervisor for dask_scope user")
    if launcher == "systemd" and host.service_manager != "systemd":
        reader.refuse("dask_launcher", launcher, "supervisor, as process 1 of host {0} isn't systemd".format(host.name))


def _span(first: int, last: int) -> str:
    return str(first) if first == last else "{0}-{1}".format(first, last)
