# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A proxy leads to the pages of the plan's processes, to nothing else, and its settings are checked."""

from __future__ import annotations

import base64
import re
import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.flotilla.dask.plugins.module_utils._errors import SettingsError
from ansible_collections.flotilla.dask.plugins.module_utils.launch.front import cluster_endpoints
from ansible_collections.flotilla.dask.plugins.module_utils.launch.plan import launch_plan
from ansible_collections.flotilla.dask.plugins.module_utils.launch.proxy import (
    HEADERS,
    PAGES,
    credentials,
    proxy_site,
)
from ansible_collections.flotilla.dask.tests.unit import samples

HASH = "$2b$10$" + "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ."


def plan(name: str, address: str = "10.0.0.1", **variables: t.Any) -> dict[str, t.Any]:
    host = samples.host(name=name, address=address, http_address="auto")
    return launch_plan(
        {
            "dask_host": host,
            "dask_scheduler_address": "10.0.0.1",
            "dask_firewall": True,
            "dask_proxy_hosts": ["gateway"],
            **variables,
        }
    )


def plans(workers: int = 2, processes: int = 3) -> dict[str, t.Any]:
    groups = [samples.group(processes=processes, memory="1 GiB")]
    return {
        "scheduler": plan("scheduler", dask_runs_scheduler=True),
        **{
            f"worker{number}": plan(
                f"worker{number}", f"10.0.1.{number}", dask_runs_workers=True, dask_worker_groups=groups
            )
            for number in range(workers)
        },
        "gateway": plan("gateway", "10.0.0.9"),
    }


def settings(host: str = "gateway", of: t.Mapping[str, t.Any] | None = None, **changes: t.Any) -> dict[str, t.Any]:
    hosts = of or plans()
    accepted = {
        "host": host,
        "plan": hosts[host],
        "endpoints": cluster_endpoints(hosts),
        "beside": [],
        "dask_cluster_name": "main",
        "dask_proxy_users": {"alice": HASH},
    }
    return {**accepted, **changes}


@given(st.integers(0, 5), st.integers(1, 6))
def test_every_page_of_the_plan_has_a_route_and_nothing_else_has(workers: int, processes: int) -> None:
    cluster = proxy_site(settings(of=plans(workers, processes)))["cluster"]
    assert cluster["scheduler"] == "10.0.0.1:8787"
    assert cluster["workers"] == {
        f"{9200 + process}/10.0.1.{worker}": f"10.0.1.{worker}:{9200 + process}"
        for worker in range(workers)
        for process in range(processes)
    }


@pytest.mark.parametrize(
    "page",
    [
        *("", "status", "status/ws", "individual-task-stream", "individual-task-stream/ws", "health", "metrics"),
        *("info", "eventstream", "individual-plots.json", "json/counts.json", "json/index.html"),
        *("info/main/workers.html", "info/worker/tls://10.0.1.1:9000.html"),
        *("info/worker/tls%3A%2F%2F10.0.1.1%3A9000.html", "info/logs/tls://10.0.1.1:9000.html"),
        *("info/task/('sum-1', 0, 1).html", "info/call-stacks/tls://[fd00::1]:9000.html"),
        *("static/js/bokeh.min.js", "statics/css/base.css", "statics/individual-cluster-map.html"),
    ],
)
def test_pages_of_dask_are_served(page: str) -> None:
    assert re.fullmatch(PAGES, page)


@pytest.mark.parametrize(
    "path",
    [
        *("api/v1", "api/v1/retire_workers", "jupyter/", "jupyter/lab", "jupyter/api/kernels/1/channels"),
        *("jupyter/terminals/websocket/1", "proxy/1/x/status", "proxy/1/x/ws", "proxy/9200/10.0.1.1/status"),
        *("log-in/main", "configuration/", "status/", "status/autoload.js", "status/ws/ws", "/status", "status//ws"),
        *("sitemap.json", "json/", "info/", "statics/", "STATUS", ".dask/main", "status\n", "status?x", "status;x"),
        *("statics/..%2fapi/v1", "info/main/x"),
    ],
)
def test_what_else_dask_serves_is_no_page(path: str) -> None:
    assert not re.fullmatch(PAGES, path)


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,20}", fullmatch=True)


@given(NAMES, NAMES, st.text(max_size=9), st.sampled_from(["Basic ", "basic ", "BASIC "]))
def test_a_log_in_is_told_by_its_name_whatever_the_password(user: str, other: str, password: str, scheme: str) -> None:
    header = scheme + base64.b64encode(f"{user}:{password}".encode()).decode()
    assert re.search(credentials(user), header)
    assert bool(re.search(credentials(other), header)) == (other == user)


def test_the_log_ins_of_every_cluster_are_known() -> None:
    zoo = proxy_site(settings(dask_cluster_name="zoo", dask_proxy_prefix="/zoo", dask_proxy_users={"zoe": HASH}))
    known = proxy_site(settings(beside=[zoo["cluster"]]))["log_ins"]
    assert known == {"alice": credentials("alice"), "zoe": credentials("zoe")}


def test_answers_of_dashboards_keep_none_of_the_headers_that_the_proxy_gives() -> None:
    site = proxy_site(settings())
    assert site["headers"] == HEADERS
    assert {*HEADERS, "Set-Cookie", "WWW-Authenticate", "Service-Worker-Allowed"} <= set(site["dropped_headers"])
    assert not any('"' in value or "\n" in value for value in HEADERS.values())


def test_pages_take_scripts_and_open_connections_nowhere_else() -> None:
    policy = dict(each.strip().split(" ", 1) for each in HEADERS["Content-Security-Policy"].split(";"))
    assert policy["connect-src"] == "'self'"
    assert policy["script-src"] == "'self' 'unsafe-inline' 'unsafe-eval'"
    for kind in ("default-src", "worker-src", "base-uri", "form-action", "frame-ancestors"):
        assert policy[kind] == "'none'"


def test_the_names_of_a_proxy_are_those_of_its_host_unless_the_inventory_says_others() -> None:
    assert proxy_site(settings())["names"] == ["10.0.0.9", "gateway"]
    site = proxy_site(settings(dask_proxy_names=["Dask.lab.example", "fd00::9"], dask_proxy_https_port=8443))
    assert site["names"] == ["[fd00::9]", "dask.lab.example"]
    assert site["origins"] == ["https://[fd00::9]:8443", "https://dask.lab.example:8443"]


@pytest.mark.parametrize("prefix", ["/", "/main", "/main/", "/labs/one", "/a-b_c.d"])
def test_a_prefix_begins_and_ends_with_a_slash(prefix: str) -> None:
    assert proxy_site(settings(dask_proxy_prefix=prefix))["cluster"]["prefix"] == prefix.rstrip("/") + "/"


def test_clusters_that_are_served_already_stay_and_no_password_is_in_what_is_written_down() -> None:
    first = proxy_site(settings(dask_cluster_name="zoo", dask_proxy_prefix="/zoo"))["cluster"]
    site = proxy_site(settings(beside=[first]))
    assert [each["cluster"] for each in site["clusters"]] == ["main", "zoo"]
    assert site["clusters"] == [site["cluster"], first]
    assert HASH not in str(site)
    assert (first["certificate"], site["cluster"]["certificate"]) == (True, False)
    with pytest.raises(SettingsError, match=r"dask_proxy_certificate: .* cluster zoo of this proxy sees to"):
        proxy_site(settings(beside=[first], dask_proxy_certificate="own.pem"))
    changed = proxy_site(settings(dask_proxy_users={"alice": HASH.replace("abc", "cba")}))
    assert changed["cluster"]["passwords"] != site["cluster"]["passwords"]


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("dask_proxy_prefix", "main", "begins with '/'"),
        ("dask_proxy_prefix", "/ma in", "begins with '/'"),
        ("dask_proxy_prefix", "/a/../b", "begins with '/'"),
        ("dask_proxy_prefix", '/a"; return 200; "', "begins with '/'"),
        ("dask_proxy_prefix", "/zoo/", "cluster zoo of this proxy"),
        ("dask_proxy_users", {"alice": "secret horse"}, "bcrypt hash.*htpasswd -nBC 10 alice"),
        ("dask_proxy_users", {"alice": "$apr1$x$" + "a" * 53}, "bcrypt hash"),
        ("dask_proxy_users", {"alice": HASH + "\n"}, "bcrypt hash"),
        ("dask_proxy_users", {"al:ice": HASH}, "names of at most 64"),
        ("dask_proxy_users", {}, "one of both"),
        ("dask_proxy_users", ["alice"], "a mapping"),
        ("dask_proxy_auth_request", "https://sso.lab.example/auth", "one of both, and not both"),
        ("dask_proxy_auth_request", "sso.lab.example", "starts with https://"),
        ("dask_proxy_sign_in", "https://sso/{x};", "starts with https://"),
        ("dask_proxy_names", ["*.lab.example"], "host name or an IP address"),
        ("dask_proxy_names", ["a b"], "host name or an IP address"),
        ("dask_proxy_https_port", 70000, "a port, from 1 to 65535"),
        ("dask_proxy_http_port", 443, "another port than dask_proxy_https_port"),
        ("dask_proxy_implementation", "apache", "nginx, traefik"),
        ("dask_proxy_issuer", "letsencrypt", "cluster, own"),
        ("dask_proxy_log_ins_per_minute", 0, "failed log-ins"),
    ],
)
def test_what_cannot_work_is_refused_in_words(variable: str, value: t.Any, words: str) -> None:
    zoo = proxy_site(settings(dask_cluster_name="zoo", dask_proxy_prefix="/zoo"))["cluster"]
    with pytest.raises(SettingsError, match=words) as refused:
        proxy_site(settings(beside=[zoo], **{variable: value}))
    assert variable.split("_auth")[0] in str(refused.value) or "dask_proxy_users" in str(refused.value)
    assert "secret horse" not in str(refused.value)


def test_ports_of_the_plan_are_refused_to_a_proxy_beside_it() -> None:
    with pytest.raises(SettingsError, match=r"dask_proxy_https_port: 8787 .* that scheduler of the same host"):
        proxy_site(settings(host="scheduler", dask_proxy_https_port=8787))


def test_host_names_are_refused_where_links_need_addresses() -> None:
    named = {**plans(), "worker0": plan("worker0", "worker0.lab.example", dask_runs_workers=True)}
    with pytest.raises(SettingsError, match=r"dask_host_address: 'worker0.lab.example' .* an IP address"):
        proxy_site(settings(of=named))


def test_no_authority_no_certificate_of_it() -> None:
    plain = {name: {**each, "tls": False} for name, each in plans().items()}
    assert proxy_site(settings(of=plain))["issuer"] == "own"
    with pytest.raises(SettingsError, match=r"dask_proxy_issuer: 'cluster' .* dask_tls"):
        proxy_site(settings(of=plain, dask_proxy_issuer="cluster"))
