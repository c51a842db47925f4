# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real proxies on this machine, with the configuration that the role dask_proxy writes."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import typing as t
from base64 import b64encode
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import certificates
import yaml
from jinja2 import Environment, StrictUndefined

from ansible_collections.flotilla.dask.plugins.module_utils._wait import wait_for

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "roles" / "dask_proxy"
LOOPBACK = "127.0.0.1"
USERS = {
    "alice": "$2y$04$VHHTyXgte3vNlGapB0bxPeKyNauGZwfZpkpD0ZIZuvl1Pm9vQ/lSu",
    "bob": "$2y$04$XL2BmwVVH9EN50D1zzvm1OxudCK81JssGq01MqOyAu.2yCvfo3YJW",
}
ALICE = ("alice", "right horse")
BOB = ("bob", "left horse")
IMPLEMENTATIONS = ("nginx", "traefik")


class Answer(t.NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: str


class Asked(t.NamedTuple):
    line: str
    headers: dict[str, str]


@dataclass
class Stranger:
    """A server that answers every request in the same way, and remembers it.

    It stands for a dashboard that a task has changed, for a service that knows who is logged in, and for other servers.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    address: str = ""

    @contextlib.contextmanager
    def serving(self) -> t.Iterator[Stranger]:
        stranger = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                stranger.asked.append(Asked(self.requestline, dict(self.headers.items())))
                self.rfile.read(int(self.headers.get("Content-Length", "0")))
                self.send_response(stranger.status)
                for name, value in {"Content-Length": "0", **stranger.headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_words: object) -> None:
                pass

        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            setattr(Handler, "do_" + method, Handler.answer)

        with ThreadingHTTPServer((LOOPBACK, 0), Handler) as server:
            self.address = "{0}:{1}".format(LOOPBACK, server.server_port)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield self
            finally:
                server.shutdown()

    def paths(self) -> list[str]:
        return [each.line.split()[1] for each in self.asked]


@dataclass
class Proxy:
    """A proxy that runs. ``site``: what the plan says that it serves; ``files``: where it logs."""

    implementation: str
    site: dict[str, t.Any]
    files: Path
    process: subprocess.Popen[bytes]

    def is_there(self) -> bool:
        """Whether it has read what it serves. Traefik listens before it has."""
        try:
            return self.ask("/health", None).status != http.HTTPStatus.NOT_FOUND
        except OSError:
            return False

    @property
    def prefix(self) -> str:
        return str(self.site["cluster"]["prefix"].rstrip("/"))

    @property
    def url(self) -> str:
        return str(self.site["origins"][0]) + self.prefix

    def ask(
        self,
        path: str,
        user: tuple[str, str] | None = ALICE,
        method: str = "GET",
        source: str = LOOPBACK,
        body: bytes | None = None,
        headers: t.Mapping[str, str] | None = None,
    ) -> Answer:
        """Asks for a path below the cluster's prefix, exactly as it is written; ``source`` is the client's address."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(
            LOOPBACK, self.site["https_port"], timeout=30, context=context, source_address=(source, 0)
        )
        headers = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
        if user:
            headers["Authorization"] = "Basic " + b64encode(":".join(user).encode()).decode()
        with contextlib.closing(connection):
            connection.putrequest(method, self.prefix + path, skip_host="Host" in headers)
            for name, value in headers.items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            upgraded = answer.status == http.HTTPStatus.SWITCHING_PROTOCOLS
            return Answer(answer.status, answer.headers, "" if upgraded else answer.read().decode("utf-8", "replace"))


def site_files(implementation: str, site: dict[str, t.Any], directory: Path) -> list[str]:
    """Writes what the role writes, and returns the command that it starts the proxy with."""
    configuration, state = directory / "configuration", directory / "state"
    for each in (configuration, state):
        each.mkdir(parents=True)
    identity = certificates.issue(certificates.authority(), ["localhost", LOOPBACK])
    (configuration / "identity.pem").write_text(identity.key_text() + identity.certificate_text)
    for cluster in site["clusters"]:
        users = {name: USERS[name] for name in cluster["users"]}
        written = configuration / cluster["cluster"]
        written.with_suffix(".users").write_text("".join(f"{name}:{hashed}\n" for name, hashed in users.items()))
        secret = hashlib.sha256(json.dumps(users).encode()).hexdigest()
        written.with_suffix(".secret").write_text(f"set_hmac_sha256 $known {secret} $http_authorization;\n")
    debian = yaml.safe_load((ROLE / "vars" / "Debian.yml").read_text())
    variables = {
        **{name: value for name, value in debian.items() if name.startswith("_dask_proxy")},
        "ansible_facts": {"dask_host": {"ipv6": False}},
        "dask_proxy_implementation": implementation,
        "dask_proxy_site": site,
        "_dask_proxy_account": "www-data",
        "_dask_proxy_clusters": site["clusters"],
        "_dask_proxy_digest": "the-digest-of-the-configuration",
        "_dask_proxy_directory": str(configuration),
        "_dask_proxy_identity": str(configuration / "identity.pem"),
        "_dask_proxy_state": str(state),
        "_dask_proxy_traefik_ping_port": site["http_port"] + 1 if site["http_port"] else 0,
    }
    environment = Environment(trim_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)

    def write(template: str) -> Path:
        target = configuration / template.removesuffix(".j2")
        target.write_text(environment.from_string((ROLE / "templates" / template).read_text()).render(variables))
        return target

    if implementation == "nginx":
        # Only root's nginx gives its work to another account, which has to reach what it writes.
        if os.geteuid() == 0:
            for each in state.parents:
                each.chmod(each.stat().st_mode | 0o011)
            shutil.chown(state, group="www-data")
            state.chmod(0o750)
        program = subprocess.run(
            [ROOT / "tests/fixtures/nginx"], check=True, capture_output=True, text=True
        ).stdout.strip()
        return [program, "-e", "stderr", "-c", str(write("nginx.conf.j2")), "-g", "daemon off;"]
    write("routes.yml.j2")
    return [str(Path(sys.prefix, "bin", "traefik")), "--configFile=" + str(write("traefik.yml.j2"))]


@contextlib.contextmanager
def running(implementation: str, site: dict[str, t.Any]) -> t.Iterator[Proxy]:
    """A proxy from its start until the end of the block."""
    with tempfile.TemporaryDirectory() as place:  # whose name is short, as the paths of sockets have to be
        directory = Path(place)
        command = site_files(implementation, site, directory)
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        proxy = Proxy(implementation, site, directory, process)
        try:
            wait_for(lambda: proxy.is_there() or process.poll() is not None, 60, "the proxy to be there")
            assert process.poll() is None, (directory / "log").read_text()
            yield proxy
        finally:
            process.terminate()
            process.wait(60)
