# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a scientist does: opens the address in a browser, logs in, and watches a job."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from door import ALICE, FRONT_DOOR, Door
from playwright.sync_api import Browser, BrowserContext, Page, WebSocket, expect
from testbed import Ansible, Cluster, Hosts, wait_until

SECONDS = 180_000  # milliseconds, as the browser's waits take them

# Tasks of two kinds that take a while, one after the other on two workers, until a file says that it is enough.
WATCHED = """
import os, time
from dask.distributed import Client, wait
def prepare(x): time.sleep(0.3); return x
def analyse(x): time.sleep(0.5); return [x] * 200_000
with Client() as client:
    results = []
    while not os.path.exists("/var/lib/dask/main/enough"):
        first = len(results)
        prepared = client.map(prepare, range(first, first + 20), pure=False)
        results += client.map(analyse, prepared, pure=False)
        wait(results)
    print(len(results))
"""

# A service that knows who is logged in by a cookie.
SIGN_ON = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Service(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if "session=alice" in self.headers.get("Cookie", "") else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()
HTTPServer(("0.0.0.0", 8099), Service).serve_forever()
"""
SESSION = "session=alice"

MODELS = "Bokeh.documents.flatMap(each => [...each._all_models.values()])"
# The titles of a page's plots: Bokeh draws them, they are no text of the page.
TITLES = f"""() => {MODELS}
    .filter(each => each.type === "Title").map(each => each.text ?? "")"""
# All that a page's plots and tables show, as text.
DATA = f"""() => JSON.stringify({MODELS}
    .filter(each => each.type === "ColumnDataSource").map(each => Object.entries(each.data)))"""
PROGRESS = re.compile(r"Progress -- total: (\d+), .*in-memory: (\d+)")


@pytest.fixture
def log_in(browser: Browser, pictures: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., BrowserContext]]:
    """Opens a window of somebody who answers with this name and password; a picture of each page is kept."""
    windows = []

    def open_window(user: str, password: str) -> BrowserContext:
        windows.append(
            browser.new_context(
                ignore_https_errors=True,  # that the certificate is good is another test's business
                http_credentials={"username": user, "password": password},
                viewport={"width": 1280, "height": 800},
            )
        )
        return windows[-1]

    yield open_window
    name = re.sub(r"\W+", "-", str(request.node.name)).strip("-")
    pages = [page for window in windows for page in window.pages]
    for number, page in enumerate(pages, 1):
        page.screenshot(path=pictures / f"{name}-{number}.png")
    for window in windows:
        window.close()


@pytest.fixture
def watched_job(cluster: Cluster, hosts: Hosts) -> Iterator[None]:
    """A job that goes on for as long as somebody looks at it."""
    hosts["scheduler"].check_output("rm -f /var/lib/dask/main/enough")
    assert cluster.job("watched", script="watched.py", content=WATCHED, state="submitted")["changed"]
    yield
    hosts["scheduler"].check_output("touch /var/lib/dask/main/enough")
    assert cluster.job("watched", script="watched.py", content=WATCHED)["job"]["state"] == "finished"
    cluster.job("watched", state="absent")
    hosts["scheduler"].check_output("rm /var/lib/dask/main/enough")


def progress(page: Page) -> tuple[int, int]:
    """How many tasks the page says there are, and how many of them are done."""
    found = [PROGRESS.match(title) for title in page.evaluate(TITLES)]
    counts = [tuple(map(int, match.groups())) for match in found if match]
    return (counts[0][0], counts[0][1]) if counts else (0, 0)


def wait_for_progress(page: Page, beyond: int) -> int:
    """Waits until the page, which nobody loads again, shows more tasks done."""
    for _attempt in range(300):
        done = progress(page)[1]
        if done > beyond:
            return done
        page.wait_for_timeout(200)
    raise AssertionError(f"no more than {beyond} tasks were done after a minute: {page.evaluate(TITLES)}")


@pytest.mark.usefixtures("watched_job")
def test_somebody_logs_in_watches_a_job_and_looks_at_a_worker(
    door: Door, log_in: Callable[..., BrowserContext], pictures: Path
) -> None:
    window = log_in(*ALICE)
    window.set_default_timeout(SECONDS)
    page = window.new_page()
    missing: list[str] = []
    page.on("response", lambda answer: missing.append(answer.url) if answer.status >= 400 else None)
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))

    page.goto(f"{door.url}/status")
    page.wait_for_function("() => window.Bokeh && Bokeh.documents.length")
    first = wait_for_progress(page, 0)
    second = wait_for_progress(page, first + 40)
    assert second > first
    assert sockets == [f"{door.url}/status/ws".replace("https", "wss")]
    page.screenshot(path=pictures / f"status-{door.host}.png")

    page.get_by_role("link", name="Info", exact=True).click()
    page.get_by_role("link", name="dashboard", exact=True).first.click()
    page.wait_for_function("() => window.Bokeh && Bokeh.documents.length")
    assert re.fullmatch(re.escape(door.url) + r"/proxy/9200/[0-9.]+/status", page.url)
    expect(page).to_have_title(re.compile("Worker"))
    assert sockets[-1].endswith("/status/ws")
    assert "/proxy/9200/" in sockets[-1]
    assert missing == []


def is_updated(page: Page, url: str) -> bool:
    """Whether what a page shows changes while nobody loads it again."""
    page.goto(url)
    page.wait_for_function("() => window.Bokeh && Bokeh.documents.length")
    shown = page.evaluate(DATA)
    for _attempt in range(300):
        if page.evaluate(DATA) != shown:
            return True
        page.wait_for_timeout(100)
    return False


@pytest.mark.usefixtures("watched_job")
def test_the_data_of_every_page_is_updated(door: Door, log_in: Callable[..., BrowserContext]) -> None:
    """But for the profile's, which Dask draws anew only when somebody asks for it."""
    page = log_in(*ALICE).new_page()
    names = ("workers", "tasks", "system", "graph", "groups")
    assert [name for name in names if not is_updated(page, f"{door.url}/{name}")] == []


def test_the_table_of_workers_can_be_sorted(door: Door, log_in: Callable[..., BrowserContext]) -> None:
    page = log_in(*ALICE).new_page()
    missing: list[str] = []
    page.on("response", lambda answer: missing.append(answer.url) if answer.status >= 400 else None)
    page.goto(f"{door.url}/info/main/workers.html", wait_until="networkidle")
    assert page.locator("tbody tr").count() == 2
    assert missing == []


def test_a_wrong_password_shows_nothing(door: Door, log_in: Callable[..., BrowserContext]) -> None:
    page = log_in("alice", "wrong horse").new_page()
    answer = page.goto(f"{door.url}/status")
    assert answer is not None
    assert answer.status == 401
    assert "Dask" not in page.title()
    opened = page.evaluate(
        """url => new Promise(answer => {
            const socket = new WebSocket(url);
            socket.onopen = () => answer(true);
            socket.onerror = () => answer(false);
        })""",
        f"{door.url}/status/ws".replace("https", "wss"),
    )
    assert not opened


@pytest.fixture
def sign_on(hosts: Hosts, ansible: Ansible) -> Iterator[dict[str, object]]:
    """The variables of a site with single sign-on; afterwards there are users with passwords again."""
    host = hosts["stranger"]
    host.check_output("systemd-run --unit sign-on python3 -c %s", SIGN_ON)
    wait_until(lambda: host.socket("tcp://0.0.0.0:8099").is_listening, "the service listens")
    yield {
        "dask_proxy_users": {},
        "dask_proxy_auth_request": f"http://{hosts.address('stranger')}:8099/auth",
        "dask_proxy_sign_in": "https://sign-on.lab.example/?app=dask",
    }
    host.check_output("systemctl stop sign-on")
    back = ansible.playbook(FRONT_DOOR)
    assert back.ok, back.problems


def test_a_service_for_single_sign_on_is_asked_and_open_pages_live_on_meanwhile(
    ansible: Ansible,
    doors: dict[str, Door],
    log_in: Callable[..., BrowserContext],
    hosts: Hosts,
    sign_on: dict[str, object],
) -> None:
    closed: list[str] = []
    frames: list[str] = []
    for door in doors.values():
        page = log_in(*ALICE).new_page()

        def watch(socket: WebSocket) -> None:
            socket.on("close", lambda socket: closed.append(socket.url))
            socket.on("framereceived", lambda _frame: frames.append(socket.url))

        page.on("websocket", watch)
        page.goto(f"{door.url}/system")
        page.wait_for_function("() => window.Bokeh && Bokeh.documents.length")

    run = ansible.playbook(FRONT_DOOR, extra_vars=sign_on)
    assert run.ok, run.problems
    assert closed == []
    frames.clear()
    for _attempt in range(100):
        if len(set(frames)) == len(doors):
            break
        page.wait_for_timeout(200)
    assert len(set(frames)) == len(doors)
    assert closed == []

    worker = f"/proxy/9200/{hosts.address('worker1')}/status"
    for door in doors.values():
        for path in ("/status", worker):
            assert door.page(path, None, Cookie=SESSION).status == 200
            assert door.page(path, None, Cookie="session=mallory").status in (302, 401)
            assert door.page(path).status in (302, 401), "a password is nothing here"
    sent_on = doors["gateway"].page("/status", None)
    back = quote(f"{doors['gateway'].url}/status", safe="")
    assert (sent_on.status, sent_on.headers["Location"]) == (302, f"https://sign-on.lab.example/?app=dask&rd={back}")
    assert doors["scheduler"].page("/status", None).status == 401
