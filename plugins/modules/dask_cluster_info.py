#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dask_cluster_info
short_description: The state of a Dask cluster
version_added: 0.1.0
author:
  - The flotilla.dask contributors (@flotilla)
description:
  - Tells whether a cluster is what its launch plan promised, and what every worker has and does.
  - Can wait until it is.
  - Asks the scheduler once and is not one of its clients, so that a monitoring system may run it every few seconds.
options:
  wait:
    description:
      - Seconds to wait until the cluster is healthy; the task fails if it isn't by then.
      - With V(0) the state is reported as it is, and the task succeeds whatever it is.
    type: float
    default: 0
  wait_for:
    description:
      - What to wait for, with O(wait). With V(healthy) the planned workers are there and well, and no others.
      - With V(planned) the planned workers are there and well. Others do not make the task fail, after a few seconds in
        which they may go. Warnings name them, and the hosts that have the cluster without being declared.
    type: str
    choices: [healthy, planned]
    default: healthy
  workers:
    description:
      - How many workers make the cluster healthy, where it is not to be the number that the plan promised.
    type: int
  hosts:
    description:
      - Inventory names of hosts. Only the workers that the plan promised on them decide the health, where it is not to
        be all.
    type: list
    elements: str
  timeout:
    description: Seconds within which the scheduler has to answer.
    type: float
    default: 5
extends_documentation_fragment:
  - flotilla.dask.attributes
  - flotilla.dask.attributes.info
  - flotilla.dask.attributes.cluster
"""

EXAMPLES = r"""
- name: Look at the only cluster of this host
  flotilla.dask.dask_cluster_info:
  register: dask

- name: Wait until all planned workers of cluster main are there
  flotilla.dask.dask_cluster_info:
    cluster: main
    wait: 60

- name: Wait until the workers of this host are back
  flotilla.dask.dask_cluster_info:
    hosts: ["{{ inventory_hostname }}"]
    wait: 60
"""

RETURN = r"""
cluster:
  description: The cluster's state.
  returned: success, and on failure too
  type: dict
  contains:
    name:
      description: The cluster's name.
      type: str
      returned: always
    health:
      description:
        - V(healthy) if exactly the planned workers are there and well, V(degraded) if not, V(unreachable) if no
          scheduler answers. With O(workers) or O(hosts), workers that are not planned are no reason.
      type: str
      returned: always
    reasons:
      description: In words, why it isn't healthy.
      type: list
      elements: str
      returned: always
    summary:
      description: All this in one line.
      type: str
      returned: always
    scheduler:
      description: The scheduler's address, for C(Client).
      type: str
      returned: always
    dashboard:
      description: The dashboard's URL on the scheduler's host; empty on others.
      type: str
      returned: always
    started:
      description: When the scheduler started, in seconds since the epoch.
      type: float
      returned: if the scheduler answers
    versions:
      description: The scheduler's versions of Python and of the packages that have to be the same everywhere.
      type: dict
      returned: if the scheduler answers
    environment:
      description:
        - Name and fingerprint of the scheduler's software. If this host's isn't the same, RV(cluster.reasons) tells
          which packages differ.
      type: str
      returned: if the scheduler answers
    promised:
      description: How many workers the plan promised.
      type: int
      returned: always
    complete:
      description: Whether every planned worker is there and well, whoever else is.
      type: bool
      returned: if the scheduler answers
    unplanned:
      description: Names of workers that are there without being in the plan.
      type: list
      elements: str
      returned: if the scheduler answers
    members:
      description:
        - The hosts that have the cluster, as far as the last run of C(flotilla.dask.site) knew. One that is no
          longer declared stays among them until C(flotilla.dask.remove_host) has removed the cluster from it.
      type: list
      elements: dict
      returned: always
      contains:
        name:
          description: The host's name in the inventory.
          type: str
          returned: always
        address:
          description: The host's address; empty where it is not known.
          type: str
          returned: always
        declared:
          description: Whether the host is in an inventory group of the cluster.
          type: bool
          returned: always
        workers:
          description: Names of the workers that are connected from there; in a swarm nobody knows.
          type: list
          elements: str
          returned: always
    workers:
      description: Every worker.
      type: list
      elements: dict
      returned: if the scheduler answers
      contains:
        name:
          description: The worker's name.
          type: str
          returned: always
        address:
          description: The worker's address.
          type: str
          returned: always
        status:
          description: The worker's status, such as V(running) or V(paused).
          type: str
          returned: always
        threads:
          description: How many tasks it runs at once.
          type: int
          returned: always
        memory_limit:
          description: Its limit in bytes.
          type: int
          returned: always
        memory:
          description: Bytes that its process uses.
          type: int
          returned: always
        spilled:
          description: Bytes that it moved to disk.
          type: int
          returned: always
        last_seen:
          description: Seconds since its last heartbeat.
          type: float
          returned: always
        resources:
          description: Its Dask resources.
          type: dict
          returned: always
        dashboard_port:
          description: The port of its HTTP endpoint.
          type: int
          returned: always
        tasks:
          description: How many tasks are C(executing), C(ready), C(waiting) and C(in_memory).
          type: dict
          returned: always
"""

import time
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.flotilla.dask.plugins.module_utils import _health
from ansible_collections.flotilla.dask.plugins.module_utils._client import (
    SchedulerWatch,
    UnreachableError,
)
from ansible_collections.flotilla.dask.plugins.module_utils._clusters import Description, find_cluster
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._files import read_text
from ansible_collections.flotilla.dask.plugins.module_utils._wait import poll
from ansible_collections.flotilla.dask.plugins.module_utils.launch.members import parse_members

LEAVING_SECONDS = 5.0
"""How long workers that nobody planned may take to be gone: the scheduler hears a moment later of those that end."""


def cluster_state(
    cluster: Description, watch: SchedulerWatch, workers: int | None, hosts: list[str] | None
) -> dict[str, t.Any]:
    """Returns what this module returns as ``cluster``."""
    promised = cluster["workers"] if workers is None else []
    if hosts is not None:
        promised = [each for each in promised if each["host"] in hosts]
    number = len(promised) if workers is None else workers
    path = cluster.get("members", "")
    recorded = parse_members(read_text(path), path) if path else {}
    state: dict[str, t.Any] = {
        "name": cluster["cluster"],
        "scheduler": cluster["scheduler"],
        "dashboard": cluster["dashboard"],
        "promised": number,
        "members": _health.members([], cluster["workers"], recorded),
    }
    try:
        identity = watch.state()
    except UnreachableError as error:
        reason = "{0} On its host, '{1}' shows the log.".format(error, cluster["logs"])
        return {**state, "health": "unreachable", "reasons": [reason], "summary": "unreachable: " + reason}
    found = _health.workers(identity, time.time())
    decisive = found
    if hosts is not None:
        names = {each["name"] for each in promised}
        decisive = [worker for worker in found if worker["name"] in names]
    surplus = _health.surplus(decisive, promised) if workers is None else []
    others = _health.unplanned(decisive, promised) if workers is None else []
    lacks = _health.degradations([each for each in decisive if each["name"] not in others], promised)
    if identity["difference"]:
        lacks.append("this host's {0}".format(identity["difference"]))
    if workers is not None and len(found) < workers:
        lacks.append("{0} workers, {1} asked for".format(len(found), workers))
    reasons = [*surplus, *lacks]
    health = "degraded" if reasons else "healthy"
    return {
        **state,
        "health": health,
        "reasons": reasons,
        "summary": _health.summary(health, found, number),
        "started": identity["started"],
        "versions": identity["versions"],
        "environment": identity["environment"],
        "complete": not lacks,
        "members": _health.members(found, cluster["workers"], recorded),
        "unplanned": _health.unplanned(found, cluster["workers"]),
        "workers": found,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "cluster": {"type": "str"},
            "home": {"type": "str", "default": ""},
            "wait": {"type": "float", "default": 0},
            "wait_for": {"type": "str", "choices": ["healthy", "planned"], "default": "healthy"},
            "workers": {"type": "int"},
            "hosts": {"type": "list", "elements": "str"},
            "timeout": {"type": "float", "default": 5},
        },
        mutually_exclusive=[("workers", "hosts")],
        supports_check_mode=True,
    )
    options: dict[str, t.Any] = module.params
    state: dict[str, t.Any] = {}

    def reached_it() -> bool:
        state.clear()
        state.update(cluster_state(description, watch, options["workers"], options["hosts"]))
        if options["wait_for"] == "planned" and state.get("complete"):
            others_may_leave = time.monotonic() < began + min(LEAVING_SECONDS, options["wait"])
            return bool(state["health"] == "healthy" or not others_may_leave)
        return bool(state["health"] == "healthy")

    try:
        description = find_cluster(options["cluster"], options["home"])
        with SchedulerWatch(description, options["timeout"]) as watch:
            began = time.monotonic()
            reached = poll(reached_it, options["wait"])
    except DaskError as error:
        module.fail_json(msg=str(error))
    if options["wait_for"] == "planned":
        for notice in _health.leftovers(state["members"]):
            module.warn(notice)
    if options["wait"] and not reached:
        module.fail_json(
            msg="Cluster '{0}' is not healthy after {1:g} s: {2}".format(
                state["name"], options["wait"], "; ".join(state["reasons"])
            ),
            cluster=state,
        )
    if options["wait_for"] == "planned" and state["reasons"]:
        module.warn("Cluster '{0}' is degraded: {1}".format(state["name"], "; ".join(state["reasons"])))
    module.exit_json(changed=False, cluster=state)


if __name__ == "__main__":
    main()
