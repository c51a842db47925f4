# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What proxies and monitoring see of a cluster is what the plans of its hosts say."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.flotilla.dask.plugins.module_utils._errors import SettingsError
from ansible_collections.flotilla.dask.plugins.module_utils.launch.front import cluster_endpoints
from ansible_collections.flotilla.dask.plugins.module_utils.launch.plan import PROXY_ACCOUNT, launch_plan
from ansible_collections.flotilla.dask.tests.unit import samples


def plan(**variables: t.Any) -> dict[str, t.Any]:
    address = variables.pop("address", "10.0.0.7")
    http_address = variables.pop("http_address", "auto")
    return launch_plan(
        {
            "dask_host": samples.host(address=address, http_address=http_address),
            "dask_scheduler_address": "10.0.0.1",
            "dask_worker_groups": [{"name": "cpu", "processes": 3, "memory": "1 GiB"}],
            "dask_runs_workers": True,
            **variables,
        }
    )


def http_addresses(plan: dict[str, t.Any]) -> set[str]:
    return {process["listen"]["dashboard"] for process in plan["processes"]}


@given(st.integers(1, 4), st.sampled_from(["10.0.0.7", "fd00::7"]), st.sampled_from(["127.0.0.1", "0.0.0.0", "::"]))
def test_every_process_has_one_endpoint_of_its_own(hosts: int, address: str, http_address: str) -> None:
    plans = {f"node{number}": plan(address=address, http_address=http_address) for number in range(hosts)}
    endpoints = cluster_endpoints(plans)
    assert [(each["host"], each["process"]) for each in endpoints] == [
        (host, process["name"]) for host, plan in plans.items() for process in plan["processes"]
    ]
    for endpoint in endpoints:
        reached_at = http_address if http_address == "127.0.0.1" else address
        assert (
            endpoint["http"] == (f"[{reached_at}]" if ":" in reached_at else reached_at) + f":{endpoint['http_port']}"
        )
        assert sorted(endpoint["comm"]) == ["nanny", "worker"]
        assert endpoint["http_port"] not in endpoint["comm"].values()


def test_pages_are_for_their_own_host_alone_until_somebody_else_is_to_read_them() -> None:
    assert http_addresses(plan()) == {"127.0.0.1"}
    assert http_addresses(plan(dask_firewall=True)) == {"127.0.0.1"}
    assert http_addresses(plan(dask_proxy_hosts=["alpha"], dask_monitoring_hosts=["alpha"])) == {"127.0.0.1"}
    assert http_addresses(plan(dask_firewall=True, dask_proxy_hosts=["gateway"])) == {"10.0.0.7"}
    assert http_addresses(plan(dask_firewall=True, dask_monitoring_hosts=["alpha", "watch"])) == {"10.0.0.7"}
    assert http_addresses(plan(dask_proxy_hosts=["gateway"], http_address="10.9.0.7")) == {"10.9.0.7"}


@pytest.mark.parametrize(
    "variables",
    [
        {"dask_proxy_hosts": ["gateway"]},
        {"dask_monitoring_hosts": ["alpha", "gateway"]},
        {"dask_proxy_hosts": ["gateway"], "dask_firewall": True, "http_address": "127.0.0.1"},
        {"dask_proxy_hosts": ["gateway"], "http_address": "localhost"},
    ],
)
def test_a_proxy_that_could_not_reach_the_pages_is_refused(variables: dict[str, t.Any]) -> None:
    with pytest.raises(
        SettingsError, match=r"dask_http_address: .* of host alpha that gateway can reach.*dask_firewall"
    ):
        plan(**variables)


def test_a_host_that_runs_nothing_of_the_cluster_needs_no_pages() -> None:
    assert plan(dask_runs_workers=False, dask_proxy_hosts=["gateway"])["processes"] == []


def test_accounts_beside_the_processes_may_read_their_pages() -> None:
    assert plan()["readers"] == []
    assert plan(dask_proxy_hosts=["gateway"], dask_monitoring_hosts=["gateway"], dask_firewall=True)["readers"] == []
    beside = {"dask_proxy_hosts": ["alpha"], "dask_monitoring_hosts": ["alpha"]}
    assert plan(**beside, dask_http_users=["alice"])["readers"] == ["alice", "dask-proxy", "prometheus"]
    # Read anew for each request: a scheduler that restarted for it would lose everything.
    assert plan(**beside, dask_http_users=["alice"])["processes"] == plan()["processes"]


def test_the_plan_knows_the_account_of_the_proxy_as_its_role_does(root: Path) -> None:
    variables = yaml.safe_load((root / "roles/dask_proxy/vars/main.yml").read_text())
    assert variables["_dask_proxy_account"] == PROXY_ACCOUNT


@pytest.mark.parametrize("users", [["-x"], [""], [4], "alice", [["alice"]], ["a\nb"], ["a b"]])
def test_what_is_no_account_may_not_read_pages(users: object) -> None:
    with pytest.raises(SettingsError, match=r"dask_http_users"):
        plan(dask_http_users=users)


def test_where_a_process_cannot_tell_who_asks_accounts_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"dask_http_users: \['alice'\] is refused.*network of its own"):
        plan(
            dask_http_users=["alice"],
            dask_launcher="docker",
            dask_docker_network="bridge",
            dask_host=samples.host(engine="27.0"),
        )
