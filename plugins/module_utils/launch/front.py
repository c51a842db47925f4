# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a whole cluster shows to proxies and monitoring: one view of the launch plans of all its hosts.

Private to this collection.
"""

from __future__ import annotations

import typing as t

from ansible_collections.flotilla.dask.plugins.module_utils.launch.processes import authority

EVERY_ADDRESS = ("0.0.0.0", "::")
DASHBOARD = "dashboard"
"""The purpose of the port that serves dashboards, metrics and the other HTTP pages of a process."""


def cluster_endpoints(plans: t.Mapping[str, t.Mapping[str, t.Any]]) -> list[dict[str, t.Any]]:
    """Returns where each process of a cluster is reached, in the order of its hosts.

    :param plans: Host's name to its launch plan.
    :return: For each process its ``host``, the host's ``address``, ``process`` (its name), ``kind``, ``group``,
        ``worker`` (the name that Dask knows it by), ``http`` (address and port of its HTTP pages, as in a URL),
        ``http_address``, ``http_port``, and ``comm``: purpose to port of the others.
    """
    endpoints = []
    for host, plan in plans.items():
        for process in plan["processes"]:
            if DASHBOARD not in process["ports"]:
                continue  # a process in the network of a swarm, which nobody else is in
            listen = process["listen"][DASHBOARD]
            port = process["ports"][DASHBOARD]
            reached_at = plan["address"] if listen in EVERY_ADDRESS else listen
            endpoints.append(
                {
                    "host": host,
                    "address": plan["address"],
                    "process": process["name"],
                    "kind": process["kind"],
                    "group": process["group"],
                    "worker": process["worker"],
                    "http": authority(reached_at, port),
                    "http_address": reached_at,
                    "http_port": port,
                    "comm": {purpose: number for purpose, number in process["ports"].items() if purpose != DASHBOARD},
                }
            )
    return endpoints
