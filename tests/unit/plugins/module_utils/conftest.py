# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A server whose certificate nobody trusts, as behind a proxy that signs HTTPS anew; and an engine of containers."""

from __future__ import annotations

import ssl
import subprocess
import threading
import typing as t
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import certificates
import pytest

from ansible_collections.flotilla.dask.tests.unit.engine import Engine


@pytest.fixture
def signer() -> certificates.Identity:
    """An authority that no system trusts."""
    return certificates.authority("lab.example")


@pytest.fixture
def authority(tmp_path: Path, signer: certificates.Identity) -> Path:
    """Its certificate."""
    path = tmp_path / "authority.pem"
    path.write_text(signer.certificate_text)
    return path


@pytest.fixture
def https_server(tmp_path: Path, signer: certificates.Identity) -> t.Iterator[str]:
    """An HTTPS server of the test's directory, with a certificate of that authority; gives its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: t.Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *_words: object) -> None:
            pass

    server = certificates.issue(signer, ["localhost"])
    identity = tmp_path / "server.pem"
    identity.write_text(server.certificate_text + server.key_text())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity)
    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as httpd:
        httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"https://localhost:{httpd.server_address[1]}"
        httpd.shutdown()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine that the program ``docker`` leads to."""
    found = Engine()
    monkeypatch.setattr(subprocess, "run", found.run)
    return found
