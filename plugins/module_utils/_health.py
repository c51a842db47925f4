# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Judges a cluster: what its scheduler says against what the plan promised. Pure (private to this collection)."""

from __future__ import annotations

import re
import typing as t
import urllib.parse

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError

SILENT_AFTER = 30.0
"""Seconds. Workers send a heartbeat every few seconds at most; one that is silent for this long is in trouble."""

Worker = t.Dict[str, t.Any]


def workers(identity: t.Mapping[str, t.Any], now: float) -> list[Worker]:
    """Returns every worker that the scheduler knows, sorted by name.

    :param identity: What ``distributed.Scheduler.identity`` returns.
    :param now: Seconds since the epoch, by the clock of the scheduler's host.
    :raises DaskError: it is not what a scheduler says, as a task may have changed that.
    """
    try:
        found = [_worker(address, each, now) for address, each in identity["workers"].items()]
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DaskError(
            "The scheduler does not describe its workers as Dask does ({0!r}). A task may have changed it. Restart the "
            "scheduler.".format(error)
        ) from error
    return sorted(found, key=_by_name)


def _by_name(worker: Worker) -> str:
    return str(worker["name"])


def _worker(address: str, each: t.Mapping[str, t.Any], now: float) -> Worker:
    metrics = each.get("metrics", {})
    counts = metrics.get("task_counts", {})
    return {
        "name": str(each["name"]),
        "address": address,
        "status": str(each["status"]),
        "threads": int(each["nthreads"]),
        "memory_limit": int(each["memory_limit"] or 0),
        "memory": int(metrics.get("memory", 0)),
        "spilled": int(metrics.get("spilled_bytes", {}).get("disk", 0)),
        "last_seen": round(max(0.0, now - each["last_seen"]), 1),
        "resources": dict(each.get("resources", {})),
        "dashboard_port": int(each.get("services", {}).get("dashboard", 0)),
        "tasks": {
            "executing": int(counts.get("executing", 0)),
            "ready": int(counts.get("ready", 0)) + int(counts.get("constrained", 0)),
            "waiting": int(counts.get("waiting", 0)),
            "in_memory": int(counts.get("memory", 0)),
        },
    }


def missing(found: t.Sequence[Worker], promised: t.Sequence[t.Mapping[str, t.Any]]) -> list[str]:
    """Returns the names of promised workers that aren't there."""
    return _compare(found, promised)[0]


def unplanned(found: t.Sequence[Worker], promised: t.Sequence[t.Mapping[str, t.Any]]) -> list[str]:
    """Returns the names of workers that nobody promised."""
    return _compare(found, promised)[1]


def _compare(found: t.Sequence[Worker], promised: t.Sequence[t.Mapping[str, t.Any]]) -> tuple[list[str], list[str]]:
    """The names of those who lack and of those who are too many.

    In place of one that a swarm runs any other replica of its group counts, as a swarm chooses which ones it keeps.
    """
    names = {worker["name"] for worker in found}
    expected = {each["name"] for each in promised}
    more = [worker["name"] for worker in found if worker["name"] not in expected]
    absent = []
    for each in promised:
        if each["name"] in names:
            continue
        replica = re.compile(re.escape(each["group"]) + "-[0-9]+")
        others = [] if each["host"] else [name for name in more if replica.fullmatch(name)]
        if others:
            more.remove(others[0])
        else:
            absent.append(str(each["name"]))
    return absent, more


def members(
    found: t.Sequence[Worker],
    promised: t.Sequence[t.Mapping[str, t.Any]],
    recorded: t.Mapping[str, t.Mapping[str, t.Any]],
) -> list[dict[str, t.Any]]:
    """Returns the hosts that have the cluster, each with the names of the ``workers`` that are connected from it.

    :param recorded: What ``launch.members.parse_members`` returns.
    """
    hosts = {each["name"]: each["host"] for each in promised}

    def is_on(worker: Worker, name: str, address: str) -> bool:
        if hosts.get(worker["name"]):
            return bool(hosts[worker["name"]] == name)
        return bool(address) and urllib.parse.urlsplit(worker["address"]).hostname == address

    return [
        {**each, "name": name}
        | {"workers": [worker["name"] for worker in found if is_on(worker, name, each["address"])]}
        for name, each in sorted(recorded.items())
    ]


def leftovers(listed: t.Sequence[t.Mapping[str, t.Any]]) -> list[str]:
    """Returns in words which hosts still have the cluster without being declared, and what to do about it.

    :param listed: What ``members`` returns.
    """
    return [
        "Host {0}{1} is no longer in the inventory groups of the cluster and still has it; {2}. To remove the cluster "
        "from it, run 'ansible-playbook flotilla.dask.remove_host -e dask_host_name={0}'. To keep the host, put it "
        "back into its group.".format(
            each["name"],
            " ({0})".format(each["address"]) if each["address"] else "",
            "its workers {0} take tasks".format(", ".join(each["workers"]))
            if each["workers"]
            else "no worker of it is connected",
        )
        for each in listed
        if not each["declared"]
    ]


def surplus(found: t.Sequence[Worker], promised: t.Sequence[t.Mapping[str, t.Any]]) -> list[str]:
    """Returns in words which workers are there beside the promised ones; nothing, if there are none."""
    names = unplanned(found, promised)
    if not names:
        return []
    addresses = {worker["name"]: worker["address"] for worker in found}
    listed = ", ".join("{0} ({1})".format(name, addresses[name]) for name in names[:10])
    more = " and {0} more".format(len(names) - 10) if len(names) > 10 else ""
    return ["{0} workers are not planned and take tasks all the same: {1}{2}".format(len(names), listed, more)]


def degradations(found: t.Sequence[Worker], promised: t.Sequence[t.Mapping[str, t.Any]]) -> list[str]:
    """Returns in words what the promised workers lack; nothing, if all of them are there and well.

    :param found: What ``workers`` returns.
    :param promised: What ``launch.promised_workers`` returns.
    """
    reasons = []
    hosts = {each["name"]: each["host"] for each in promised}
    absent = missing(found, promised)
    if absent:
        listed = ", ".join("{0} (host {1})".format(name, hosts[name] or "any") for name in absent[:10])
        more = " and {0} more".format(len(absent) - 10) if len(absent) > 10 else ""
        reasons.append("{0} of {1} planned workers missing: {2}{3}".format(len(absent), len(promised), listed, more))
    ports = {each["name"]: each["dashboard"] for each in promised}
    for worker in found:
        name = worker["name"]
        if worker["status"] != "running":
            reasons.append("worker {0} is {1}".format(name, worker["status"]))
        if worker["last_seen"] > SILENT_AFTER:
            reasons.append("worker {0} was last heard of {1:.0f} s ago".format(name, worker["last_seen"]))
        if ports.get(name) and worker["dashboard_port"] != ports[name]:  # 0: whichever is free
            reasons.append(
                "worker {0} serves HTTP on port {1} instead of {2}, which another program had taken".format(
                    name, worker["dashboard_port"], ports[name]
                )
            )
    return reasons


def summary(health: str, found: t.Sequence[Worker], promised: int) -> str:
    """Returns the cluster's state in one line."""
    threads = sum(worker["threads"] for worker in found)
    memory = sum(worker["memory_limit"] for worker in found)
    tasks = sum(sum(worker["tasks"].values()) for worker in found)
    return "{0}: {1} of {2} workers, {3} threads, {4:.1f} GiB memory, {5} tasks".format(
        health, len(found), promised, threads, memory / 2**30, tasks
    )
