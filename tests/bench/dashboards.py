# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Somebody who looks at dashboards: with a browser, and over a page's websocket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import ssl
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from playwright.sync_api import Browser, sync_playwright
from tornado.httpclient import HTTPClient, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

ROOT = Path(__file__).resolve().parents[2]
USER, PASSWORD = "alice", "right horse"
TOKEN = re.compile(r'"token":"([^"]+)"')


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    path = subprocess.run([ROOT / "tests/fixtures/chromium"], check=True, capture_output=True, text=True).stdout.strip()
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])


def load(browser: Browser, url: str) -> None:
    """Opens the status page in a window that has cached nothing, until its plots are there."""
    credentials = {"username": USER, "password": PASSWORD}
    with browser.new_context(ignore_https_errors=True, http_credentials=credentials) as window:  # type: ignore[arg-type]
        page = window.new_page()
        page.goto(f"{url}/status")
        page.wait_for_function("() => window.Bokeh && Bokeh.documents.length")


class Socket:
    """The websocket of a status page, as Bokeh's script opens it."""

    def __init__(self, url: str) -> None:
        self.loop = asyncio.new_event_loop()
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        headers = {"Authorization": "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
        self.context = context if url.startswith("https") else None
        self.headers = headers
        self.url = url
        self.connection: WebSocketClientConnection | None = None

    def __enter__(self) -> Socket:
        client = HTTPClient()
        page = client.fetch(self._request("http", "/status")).body.decode()
        client.close()
        (token, *_others) = TOKEN.findall(page)
        request = self._request("ws", "/status/ws")
        self.connection = self.loop.run_until_complete(self._connect(request, token))
        return self

    def _request(self, scheme: str, path: str) -> HTTPRequest:
        url = self.url.replace("http", scheme, 1) + path
        return HTTPRequest(url, headers=self.headers, ssl_options=self.context)

    async def _connect(self, request: HTTPRequest, token: str) -> WebSocketClientConnection:
        return await websocket_connect(request, subprotocols=["bokeh", token])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.connection is not None
        self.connection.close()
        self.loop.close()

    def round_trips(self, number: int) -> None:
        """Asks Bokeh's server who it is, and waits for the answer, so many times."""
        self.loop.run_until_complete(self._round_trips(number))

    async def _round_trips(self, number: int) -> None:
        assert self.connection is not None
        for count in range(number):
            asked = str(count)
            for part in ({"msgid": asked, "msgtype": "SERVER-INFO-REQ"}, {}, {}):
                await self.connection.write_message(json.dumps(part))
            while True:
                fragment = await self.connection.read_message()
                assert fragment is not None, "the websocket was closed"
                if isinstance(fragment, str) and f'"reqid":"{asked}"' in fragment.replace(" ", ""):
                    break
