# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print the seconds it takes to compute and write what stands before and beside a cluster: `generate.py HOSTS`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from ansible_collections.flotilla.dask.plugins.module_utils.launch.firewall import firewall_rules, firewall_sources
from ansible_collections.flotilla.dask.plugins.module_utils.launch.front import cluster_endpoints
from ansible_collections.flotilla.dask.plugins.module_utils.launch.monitoring import scrape_targets
from ansible_collections.flotilla.dask.plugins.module_utils.launch.plan import launch_plan, promised_workers
from ansible_collections.flotilla.dask.plugins.module_utils.launch.proxy import proxy_site

ROLES = Path(__file__).resolve().parents[2] / "roles"
GROUPS = [{"name": "cpu", "processes": 32, "threads": 1, "memory": "64 GiB"}]
GATEWAY, GATEWAY_ADDRESS = "gateway", "10.255.0.1"
PROXY_VARIABLES = {
    "ansible_facts": {"dask_host": {"ipv6": True}},
    "_dask_proxy_account": "dask-proxy",
    "_dask_proxy_digest": "",
    "_dask_proxy_directory": "/etc/dask-proxy",
    "_dask_proxy_identity": "/etc/dask-proxy/identity.pem",
    "_dask_proxy_modules": [],
    "_dask_proxy_state": "/var/lib/dask-proxy",
    "_dask_proxy_trusted": "",
}


def template(path: str) -> Template:
    """A role's template, compiled once, as Ansible does too."""
    environment = Environment(trim_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    return environment.from_string((ROLES / path).read_text())


def everything(number: int, table: Template, site: Template) -> int:
    """Makes it for so many hosts of 32 processes, and returns how many characters are written."""
    addresses = {f"node{host}": f"10.{host // 62500}.{host // 250 % 250}.{host % 250 + 1}" for host in range(number)}
    scheduler, *_others = addresses
    promised = promised_workers(dict.fromkeys(addresses, GROUPS))

    def plan(host: str, address: str) -> dict[str, Any]:
        return launch_plan(
            {
                "dask_host": {
                    "name": host,
                    "address": address,
                    "memory": 2**38,
                    "root": True,
                    "service_manager": "systemd",
                },
                "dask_firewall": True,
                "dask_monitoring_hosts": [GATEWAY],
                "dask_proxy_hosts": [GATEWAY],
                "dask_scheduler_address": addresses[scheduler],
                "dask_runs_scheduler": host == scheduler,
                "dask_runs_workers": host in addresses,
                "dask_worker_groups": GROUPS,
                "dask_promised_workers": promised,
            }
        )

    plans = {host: plan(host, address) for host, address in [*addresses.items(), (GATEWAY, GATEWAY_ADDRESS)]}
    endpoints = cluster_endpoints(plans)
    served = proxy_site(
        {
            "host": GATEWAY,
            "plan": plans[GATEWAY],
            "endpoints": endpoints,
            "beside": [],
            "dask_cluster_name": "main",
            "dask_proxy_users": {"alice": "$2b$10$" + 53 * "a"},
        }
    )
    written = [
        site.render(PROXY_VARIABLES, dask_proxy_site=served, _dask_proxy_clusters=served["clusters"]),
        scrape_targets(endpoints, "main"),
    ]
    found = {**addresses, GATEWAY: GATEWAY_ADDRESS}
    who = {"cluster": [*addresses], "proxies": [GATEWAY], "monitoring": [GATEWAY]}
    sources = firewall_sources({**who, "dask_host_address": {}, "found": found})
    for host in addresses:
        facts = {"name": host, "root": True, "service_manager": "systemd"}
        rules = firewall_rules({"plan": plans[host], "sources": sources, "dask_host": facts})
        written.append(table.render(dask_common_plan=plans[host], dask_firewall_rules=rules))
    return sum(map(len, written))


def main(number: int) -> None:
    table, site = template("dask_firewall/templates/table.nft.j2"), template("dask_proxy/templates/nginx.conf.j2")

    def measured() -> float:
        started = time.perf_counter()
        everything(number, table, site)
        return time.perf_counter() - started

    print(min(measured() for _time in range(7)))  # what else the machine does only adds


if __name__ == "__main__":
    main(int(sys.argv[1]))
