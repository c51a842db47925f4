# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A proxy shows the plan's pages to those who log in, and nothing to anybody else."""

from __future__ import annotations

import json
import re
import socket
import ssl
from pathlib import Path

import certificates
import pytest
from door import FRONT_DOOR, PREFIXES, Door
from testbed import Ansible, Deployment, Hosts, wait_until
from testinfra.backend.base import CommandResult

PAGES = [
    *("status", "workers", "tasks", "system", "profile", "graph", "groups", "individual-task-stream"),
    *("info/main/workers.html", "info/main/logs.html", "info/main/exceptions.html", "statics/css/base.css"),
    *("json/counts.json", "health"),
]


def test_a_first_run_makes_firewall_monitoring_and_proxies(first_runs: Deployment) -> None:
    assert {"dask_firewall", "dask_monitoring", "dask_proxy"} <= first_runs.applied.roles


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_there_for_those_who_log_in(door: Door, path: str) -> None:
    assert door.page(f"/{path}").status == 200
    assert door.page(f"/{path}", None).status == 401


@pytest.mark.parametrize("user", [None, ("alice", "wrong"), ("mallory", "right horse"), ("", "")])
def test_nobody_else_is_told_anything(door: Door, user: tuple[str, str] | None) -> None:
    refused = door.page("/status", user)
    assert refused.status == 401
    assert "Basic" in refused.headers["WWW-Authenticate"]
    assert "dask" not in refused.body.lower()


def test_browsers_are_sent_on_to_https_and_to_the_first_page(door: Door) -> None:
    moved = door.get(f"{door.prefix}/status?x=1", None, port=80)
    assert (moved.status, moved.headers["Location"]) == (301, f"{door.url}/status?x=1")
    first = door.page("/")
    assert first.status == 301
    assert first.headers["Location"].removeprefix(f"https://{door.address}") == f"{door.prefix}/status"


def test_answers_have_the_headers_that_browsers_protect_their_users_by(door: Door) -> None:
    for answer in (door.page("/status"), door.page("/status", None)):
        assert "max-age=31536000" in answer.headers["Strict-Transport-Security"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "connect-src 'self'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert not re.search(r"\d|tornado", (answer.headers["Server"] or "").lower())


def test_only_modern_tls_is_spoken(door: Door) -> None:
    context = ssl.create_default_context(cafile=str(door.authority))
    assert spoken(door, context) == "TLSv1.3"
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="alert protocol version"):
        spoken(door, context)


def spoken(door: Door, context: ssl.SSLContext) -> str | None:
    raw = socket.create_connection((door.address, 443), timeout=10)
    with context.wrap_socket(raw, server_hostname=door.address) as connection:
        return connection.version()


def links(door: Door) -> list[str]:
    """The links to workers on the scheduler's own page, as a browser resolves them there."""
    return re.findall(r'href="\.\./\.\.(/proxy/[^"]*)"', door.page("/info/main/workers.html").body)


def test_links_lead_to_every_worker_also_after_it_was_restarted(door: Door, hosts: Hosts) -> None:
    address = hosts.address("worker1")
    assert links(door) == [f"/proxy/{port}/{address}/status" for port in (9200, 9201)]
    hosts["worker1"].check_output("systemctl restart dask-main-worker-cpu-0")
    wait_until(lambda: len(links(door)) == 2, "the worker is back")
    for link in links(door):
        assert door.page(link, None).status == 401
        for page in ("status", "system", "profile", "statics/css/base.css", "metrics"):
            assert door.page(link.replace("status", page)).status == 200


# Where a careless proxy could be led: other ports and hosts of the network, itself, the metadata of a cloud.
PLACES = [
    *("22/{worker}", "9000/{worker}", "9100/{worker}", "9202/{worker}", "8787/{scheduler}", "8786/{scheduler}"),
    *("9200/{scheduler}", "9200/{gateway}", "443/{gateway}", "9200/{stranger}"),
    *(
        "9200/127.0.0.1",
        "9200/localhost",
        "8787/127.0.0.1",
        "9200/[::1]",
        "9200/0.0.0.0",
        "9200/2130706433",
        "9200/0x7f.1",
    ),
    *("80/169.254.169.254", "80/metadata.google.internal", "9200/worker1", "9200/{worker}.", "9200/{worker}:22"),
    # What is for the proxy itself.
    *("1/x/configuration?", "1/x/log-in/main?"),
    *("9200/{worker}@127.0.0.1", "09200/{worker}", "9200%20/{worker}", "+9200/{worker}", "-1/{worker}", "9200/"),
]


@pytest.mark.parametrize("place", PLACES)
def test_no_other_host_or_port_can_be_reached(door: Door, hosts: Hosts, place: str) -> None:
    names = {name.rstrip("1"): hosts.address(name) for name in ("worker1", "scheduler", "gateway", "stranger")}
    path = "/proxy/" + place.format(**names)
    assert door.page(path + "/status").status == 404
    assert door.page(path + "/status", None).status == 401


# Ways to write a path so that two programs read it differently.
TRICKS = (
    "/proxy/9200/{worker}/../../22/{worker}/status",
    "/proxy/9200/{worker}/..%2f..%2f22/{worker}/status",
    "/proxy/9200/{worker}/%2e%2e/%2e%2e/22/{worker}/status",
    "/proxy/9200/{worker}/..;/..;/22/{worker}/status",
    "/proxy%2f22%2f{worker}%2fstatus",
    "/%70roxy/22/{worker}/status",
    "/%2570roxy/22/{worker}/status",
    "//proxy/22/{worker}/status",
    "/./proxy/22/{worker}/status",
    "/info/..%2fproxy/22/{worker}/status",
    "/info/%2e%2e/proxy/22/{worker}/status",
    "/status/../proxy/22/{worker}/status",
    "/proxy/22\\{worker}\\status",
    "/proxy;x=1/22/{worker}/status",
    "/proxy/9200%2f{worker}%2f..%2f..%2f22%2f{worker}/status",
    "/proxy/9200/{worker}%2f..%2f..%2f22%2f127.0.0.1/status",
    "/proxy/9200/{worker}%00/status",
    "/proxy/9200/{worker}%0d%0aHost:%20evil/status",
    "/PROXY/22/{worker}/status",
)


@pytest.mark.parametrize("trick", TRICKS)
def test_no_way_of_writing_a_path_leads_elsewhere(door: Door, hosts: Hosts, trick: str) -> None:
    path = trick.format(worker=hosts.address("worker1"))
    assert door.page(path).status in (400, 404)
    assert door.page(path, None).status in (400, 401, 404)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "{worker}:9200", "{address}.evil.example", ""])
def test_a_request_for_another_name_is_not_found(door: Door, hosts: Hosts, host: str) -> None:
    name = host.format(worker=hosts.address("worker1"), address=door.address)
    assert door.page("/status", Host=name).status in (400, 404, 421)
    assert door.get(f"http://{name or 'evil'}{door.prefix}/status").status in (400, 404, 421)
    assert door.get(f"{door.prefix}/status", None, port=80, headers={"Host": name}).status in (400, 404)


def test_a_page_of_another_site_gets_nothing_with_its_readers_password(door: Door) -> None:
    assert door.page("/status", Origin="https://evil.example").status in (403, 404)
    assert door.page("/status", Origin=f"https://{door.address}").status == 200


def test_a_name_that_fails_to_log_in_too_often_has_to_wait_at_its_address(doors: dict[str, Door]) -> None:
    door = doors["gateway"]
    assert door.page("/status").status == 200
    for name in ("bob", "alice"):
        answers = [door.page("/status", (name, f"guess {number}")).status for number in range(60)]
        assert set(answers) == {401, 429}
        assert answers[-1] == 429
        assert "Wait a minute" in door.page("/status", (name, "another guess")).body
        # Who has logged in already goes on, also where others guess at the same name.
        assert door.page("/status").status == 200


@pytest.mark.parametrize(
    "path", ["/api/v1", "/api/v1/retire_workers", "/jupyter/lab", "/log-in/main", "/configuration"]
)
def test_what_dask_and_the_proxy_serve_beside_pages_is_nowhere(door: Door, path: str) -> None:
    assert door.page(path).status == 404
    assert door.page(path, None).status == 401


def test_links_lead_to_pages_about_every_worker(door: Door) -> None:
    body = door.page("/info/main/workers.html").body
    about = re.findall(r'href="\.\.(/(?:worker|logs)/[^"]*)"', body)
    assert len(about) == 4
    assert {door.page(f"/info{link}").status for link in about} == {200}


def test_nothing_is_sent_to_pages(door: Door) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert door.get(f"{door.prefix}/status", method=method).status in (404, 405)


def test_a_proxy_that_was_killed_is_there_again(doors: dict[str, Door], hosts: Hosts) -> None:
    for name, door in doors.items():
        hosts[name].check_output("systemctl kill --signal=KILL dask-proxy")
        wait_until(lambda door=door: is_there(door), "the proxy is there again")  # type: ignore[misc]


def is_there(door: Door) -> bool:
    try:
        return door.page("/status").status == 200
    except OSError:
        return False


def test_only_root_makes_files_where_nginx_does_so_as_root(hosts: Hosts) -> None:
    state = hosts["gateway"].file("/var/lib/dask-proxy")
    assert (state.user, state.group, state.mode) == ("root", "dask-proxy", 0o750)


# Connects as Dask's processes do, and waits for what the scheduler says first.
KNOCK = """
import socket, ssl
context = ssl.create_default_context(cafile="/etc/dask/main/tls/ca.crt")
context.check_hostname = False
context.load_cert_chain("{identity}")
with context.wrap_socket(socket.create_connection(("{scheduler}", 8786), timeout=10)) as connection:
    print("heard", len(connection.recv(8)))
"""


def test_dask_takes_the_proxys_certificate_for_nobodys(hosts: Hosts) -> None:
    """A proxy's key is where strangers talk to: it opens no connection to the scheduler."""

    def knock(identity: str) -> CommandResult:
        script = KNOCK.format(identity=identity, scheduler=hosts.address("scheduler"))
        return hosts["scheduler"].run("python3 -c %s", script)

    assert "heard 8" in knock("/etc/dask/main/tls/host.pem").stdout
    refused = knock("/etc/dask-proxy/identity.pem")
    assert refused.failed
    assert "unsupported certificate" in refused.stderr


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Certificates of somebody else's authority, as files: two good ones, and one that has expired."""
    authority = certificates.authority()
    found = {}
    for name, days in (("good", 10), ("other", 10), ("expired", -1)):
        identity = certificates.issue(authority, [name], days)
        for part, text in (("crt", identity.certificate_text), ("key", identity.key_text())):
            path = tmp_path / f"{name}.{part}"
            path.write_text(text)
            found[f"{name}.{part}"] = str(path)
    return found


def test_what_cannot_work_is_refused_before_anything_is_changed(ansible: Ansible, files: dict[str, str]) -> None:
    refusals: list[tuple[dict[str, object], str]] = [
        ({"dask_proxy_certificate": files["good.crt"]}, "paths on the controller for both"),
        (
            {"dask_proxy_certificate": files["expired.crt"], "dask_proxy_private_key": files["expired.key"]},
            "it expired on",
        ),
        ({"dask_proxy_users": {"alice": "right horse"}, "dask_proxy_prefix": "lab"}, "a bcrypt hash"),
    ]
    for variables, words in refusals:
        run = ansible.playbook("flotilla.dask.site", extra_vars=variables)
        assert not run.ok
        assert words in run.problems
        assert "right horse" not in run.output
        assert not run.changed
    limited = ansible.playbook("flotilla.dask.site", "--limit", "gateway")
    assert "nothing is known of scheduler, worker1. Allowed: a run with all hosts" in limited.problems
    assert not limited.changed


def test_a_certificate_that_was_given_is_shown(ansible: Ansible, doors: dict[str, Door], files: dict[str, str]) -> None:
    given = {"dask_proxy_certificate": files["good.crt"], "dask_proxy_private_key": files["good.key"]}
    run = ansible.playbook(FRONT_DOOR, extra_vars=given)
    assert run.ok, run.problems
    assert Path(files["good.key"]).read_text() not in run.output
    for door in doors.values():
        shown = ssl.get_server_certificate((door.address, 443))
        assert shown.split() == Path(files["good.crt"]).read_text().split()
    back = ansible.playbook(FRONT_DOOR)
    assert back.ok, back.problems
    assert [door.page("/status").status for door in doors.values()] == [200, 200]


def test_several_clusters_share_a_proxy_and_leave_it_one_by_one(ansible: Ansible, doors: dict[str, Door]) -> None:
    door = doors["gateway"]
    second = {
        "dask_cluster_name": "second",
        "dask_certificates_directory": f"{door.authority.parents[2]}/second",
        "dask_environment_method": "existing",
        "dask_environment_path": "/opt/dask/main/envs/current",
        "dask_scheduler_port": 8796,
        "dask_scheduler_dashboard_port": 8797,
        "dask_worker_groups": [
            {"name": "cpu", "memory": "512 MiB", "ports": {"worker": 9300, "nanny": 9400, "dashboard": 9500}}
        ],
    }
    taken = ansible.playbook("flotilla.dask.site", extra_vars={**second, "dask_proxy_prefix": "/lab/"})
    assert "a prefix that cluster main of this proxy hasn't got" in taken.problems
    assert not taken.changed
    apart = {**second, "dask_proxy_prefix": "/second"}
    made = ansible.playbook("flotilla.dask.site", extra_vars=apart)
    assert made.ok, made.problems
    try:
        assert not (again := ansible.playbook(FRONT_DOOR, extra_vars=apart)).changed, again.changed
        first_page, second_page = (
            json.loads(door.get(path).body) for path in ("/lab/json/identity.json", "/second/json/identity.json")
        )
        assert first_page["id"] != second_page["id"]
        assert door.page("/proxy/9500/" + door.address).status == 404
    finally:
        gone = ansible.playbook("flotilla.dask.teardown", extra_vars=apart)
    assert gone.ok, gone.problems
    assert door.get("/second/status").status == 404
    assert door.page("/status").status == 200
    back = ansible.playbook(FRONT_DOOR)
    assert back.ok, back.problems
    assert not back.changed


def test_a_worker_that_is_added_can_be_reached(ansible: Ansible, hosts: Hosts, doors: dict[str, Door]) -> None:
    group = {
        "name": "cpu",
        "processes": 3,
        "memory": "1 GiB",
        "ports": {"worker": 9000, "nanny": 9100, "dashboard": 9200},
    }
    added = f"/proxy/9202/{hosts.address('worker1')}/status"
    more = ansible.playbook("flotilla.dask.site", extra_vars={"dask_worker_groups": [group]})
    assert more.ok, more.problems
    for door in doors.values():
        assert added in links(door)
        assert door.page(added).status == 200
    fewer = ansible.playbook("flotilla.dask.site")
    assert fewer.ok, fewer.problems
    assert [door.page(added).status for door in doors.values()] == [404, 404]


def test_a_configuration_that_nginx_refuses_never_replaces_a_working_one(
    ansible: Ansible, hosts: Hosts, doors: dict[str, Door]
) -> None:
    gateway = hosts["gateway"]
    before = gateway.check_output("sha256sum /etc/dask-proxy/nginx.conf")
    # A fault that no check of ours knows: an address of the sign-on service that does not resolve.
    broken = {"dask_proxy_users": {}, "dask_proxy_auth_request": "https://nobody.invalid/auth"}
    run = ansible.playbook(FRONT_DOOR, extra_vars=broken)
    assert not run.ok
    assert "host not found in upstream" in run.problems + run.output
    assert gateway.check_output("sha256sum /etc/dask-proxy/nginx.conf") == before
    assert doors["gateway"].page("/status").status == 200
    back = ansible.playbook(FRONT_DOOR)
    assert back.ok, back.problems


def test_proxies_are_there_again_after_a_reboot(hosts: Hosts) -> None:
    for host in PREFIXES:
        assert hosts[host].service("dask-proxy").is_enabled
        security = hosts[host].check_output("systemd-analyze security dask-proxy.service --no-pager | tail -1")
        assert float(re.search(r"(\d+\.\d)", security).group(1)) < 5  # type: ignore[union-attr]
