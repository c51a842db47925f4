# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Doors: the proxies, as somebody with a browser or a program comes to them."""

from __future__ import annotations

import http.client
import ssl
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ALICE = ("alice", "right horse")
FRONT_DOOR = str(Path(__file__).parent / "front_door" / "front_door.yml")
"""What of `site` is about proxies and monitoring, for changes that are of these alone."""
PREFIXES = {"gateway": "/lab", "scheduler": ""}
"""The hosts that are proxies, with the prefix that the cluster has there: nginx and Traefik."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: str


@dataclass(frozen=True)
class Door:
    """One proxy. ``authority``: the certificate that its own is signed with."""

    host: str
    address: str
    prefix: str
    authority: Path

    @property
    def url(self) -> str:
        return f"https://{self.address}{self.prefix}"

    def get(
        self,
        path: str,
        user: tuple[str, str] | None = ALICE,
        port: int = 443,
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
    ) -> Answer:
        """Asks for a path exactly as it is written, of the right name and with a certificate that is checked."""
        context = ssl.create_default_context(cafile=str(self.authority))
        kinds: dict[int, http.client.HTTPConnection] = {
            443: http.client.HTTPSConnection(self.address, timeout=30, context=context),
            80: http.client.HTTPConnection(self.address, timeout=30),
        }
        headers = dict(headers or {})
        if user:
            headers["Authorization"] = "Basic " + b64encode(":".join(user).encode()).decode()
        connection = kinds[port]
        try:
            connection.putrequest(method, path, skip_host="Host" in headers)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read().decode("utf-8", "replace"))
        finally:
            connection.close()

    def page(self, path: str, user: tuple[str, str] | None = ALICE, **headers: str) -> Answer:
        """Asks for one of the cluster's pages."""
        return self.get(self.prefix + path, user, headers=headers)
