# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a process uses is seen from outside, by whoever connects."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import typing as t
from pathlib import Path

import certificates
import pytest
from certificates import Identity

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._in_process import trust_name
from ansible_collections.flotilla.dask.plugins.module_utils._served import (
    Installed,
    Port,
    comm_ports,
    wait_until_served,
)

AUTHORITY = certificates.authority()
HOST = certificates.issue(AUTHORITY, ["here"])


def write(directory: Path, trusted: str, identity: Identity) -> tuple[str, str]:
    directory.mkdir(exist_ok=True)
    (directory / "ca.crt").write_text(trusted)
    (directory / "host.pem").write_text(identity.key_text() + identity.certificate_text)
    return str(directory / "ca.crt"), str(directory / "host.pem")


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    return Installed(*write(tmp_path / "installed", AUTHORITY.certificate_text, HOST))


@contextlib.contextmanager
def process(directory: Path, identity: Identity = HOST, trusted: str = AUTHORITY.certificate_text) -> t.Iterator[Port]:
    """What listens with TLS as processes of the cluster do."""
    authorities, own = write(directory / "used", trusted, identity)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authorities)
    context.load_cert_chain(own)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols([trust_name(trusted)])

    def serve() -> None:
        while True:
            try:
                connection, _peer = server.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
                secured.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        try:
            yield Port("worker-cpu-0", "nanny", "127.0.0.1", server.getsockname()[1])
        finally:
            server.shutdown(socket.SHUT_RDWR)


def test_the_ports_are_those_of_comms_at_the_addresses_that_they_listen_on() -> None:
    ports = {"worker": 9000, "nanny": 9100, "dashboard": 9200}
    listen = {"worker": "10.0.0.5", "nanny": "10.0.0.6", "dashboard": "127.0.0.1"}
    found = comm_ports([{"name": "w", "ports": ports, "listen": listen}, {"name": "s", "ports": {}, "listen": {}}])
    assert list(map(str, found)) == ["w (worker port 9000 of 10.0.0.5)", "w (nanny port 9100 of 10.0.0.6)"]


def test_what_is_installed_is_in_use(tmp_path: Path, installed: Installed) -> None:
    with process(tmp_path) as port:
        assert wait_until_served(installed, [port], 30) == ([str(port)], [])


def test_a_process_that_does_not_run_is_not_waited_for(installed: Installed) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = Port("worker-cpu-0", "worker", "127.0.0.1", server.getsockname()[1])
    assert wait_until_served(installed, [port], 30) == ([], [str(port)])


@pytest.mark.parametrize(
    ("used", "words"),
    [
        ({"identity": certificates.issue(AUTHORITY, ["here"])}, "it shows another certificate"),
        ({"identity": certificates.issue(certificates.authority(), ["here"])}, "TLS fails"),
        ({"trusted": AUTHORITY.certificate_text + certificates.authority().certificate_text}, "other authorities"),
        ({"trusted": AUTHORITY.certificate_text + "Revoked: 1 alice\n"}, "a revocation"),
    ],
    ids=["the certificate before", "another authority's", "one authority more", "one revocation more"],
)
def test_what_a_process_uses_instead_is_said(
    tmp_path: Path, installed: Installed, used: dict[str, t.Any], words: str
) -> None:
    with process(tmp_path, **used) as port, pytest.raises(DaskError, match=words) as problem:
        wait_until_served(installed, [port], 0)
    assert str(port) in str(problem.value)


def test_what_listens_and_speaks_no_tls_is_said(installed: Installed) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            server.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        port = Port("scheduler", "scheduler", "127.0.0.1", server.getsockname()[1])
        with pytest.raises(DaskError, match="TLS fails"):
            wait_until_served(installed, [port], 0)


def test_certificates_that_are_not_there_or_do_not_fit_are_said(tmp_path: Path) -> None:
    authorities, own = write(tmp_path, AUTHORITY.certificate_text, HOST)
    with pytest.raises(DaskError, match=r"nowhere cannot be used .* Run flotilla\.dask\.site"):
        Installed(authorities, str(tmp_path / "nowhere"))
    Path(own).write_text(certificates.issue(AUTHORITY, ["here"]).key_text() + HOST.certificate_text)
    with pytest.raises(DaskError, match="cannot be used"):
        Installed(authorities, own)
