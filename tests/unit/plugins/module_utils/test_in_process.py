# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Dask's processes say of a drain and of their software, in words, and which certificates they load."""

from __future__ import annotations

import logging
import os
import platform
import socket
import ssl
import time
import types
import typing as t
from pathlib import Path

import certificates
import pytest
from distributed.security import Security

from ansible_collections.flotilla.dask.plugins.module_utils import _in_process as in_process
from ansible_collections.flotilla.dask.plugins.module_utils._in_process import (
    REASONS,
    Certificates,
    account_of,
    certificate_expiries,
    describe_difference,
    describe_mismatch,
    describe_outcome,
    installed_packages,
    may_read,
    readers,
    revoked_certificates,
    serial_number,
    trust_name,
)

DRAINED = {
    "name": "alpha-cpu-0",
    "reason": "",
    "seconds": 0.4159,
    "moved": 3,
    "moved_bytes": 24_000_000,
    "lost": 0,
    "lost_bytes": 0,
    "gone_for_good": 0,
    "lost_names": [],
    "unfinished": 0,
    "unfinished_names": [],
}


def test_packages_that_differ_are_named_with_both_versions() -> None:
    scheduler = {"python": "3.12.1", "numpy": "2.0", "xarray": "2024.1", "dask": "1"}
    other = {"python": "3.11.2", "numpy": "1.26", "lab": "3", "dask": "1"}
    assert describe_difference(scheduler, other) == (
        "lab 3 (scheduler: missing), numpy 1.26 (scheduler: 2.0), python 3.11.2 (scheduler: 3.12.1), "
        "xarray missing (scheduler: 2024.1)"
    )
    assert describe_difference(scheduler, dict(reversed(list(scheduler.items())))) == ""


def test_many_packages_that_differ_are_counted() -> None:
    words = describe_difference({}, {"package-{0:02}".format(number): "1" for number in range(14)})
    assert words.endswith("package-09 1 (scheduler: missing), and 4 more")


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ("numpy 1.26 (scheduler: 2.0)", "packages that differ: numpy 1.26 (scheduler: 2.0)"),
        ("", "packages that differ: none, by their versions"),
    ],
)
def test_a_mismatch_names_both_environments(difference: str, words: str) -> None:
    said = {"environment": "dask-1", "difference": difference}
    assert describe_mismatch("dask-2", said) == "environment dask-2 isn't the scheduler's dask-1; " + words
    assert describe_mismatch("", {**said, "environment": ""}).startswith(
        "environment (none) isn't the scheduler's (none)"
    )


def test_the_packages_of_a_process_have_normal_names_and_python_is_one() -> None:
    packages = installed_packages()
    assert packages["python"] == platform.python_version()
    assert {"distributed", "dask", "ansible-core"} <= set(packages)
    assert not [name for name in packages if name != name.lower() or "_" in name]


def test_a_drain_that_went_well_says_what_was_moved() -> None:
    assert describe_outcome(DRAINED) == "drained: 3 keys, 24.0 MB moved in 0.42 s"


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_a_drain_that_did_not_says_why_what_was_lost_and_what_begins_again(reason: str) -> None:
    outcome = {
        **DRAINED,
        "reason": reason,
        "lost": 12,
        "lost_bytes": 1_500_000,
        "gone_for_good": 1,
        "lost_names": ["a", "b"],
        "unfinished": 1,
        "unfinished_names": ["c"],
    }
    assert describe_outcome(outcome) == (
        "not drained, as {0}: 3 keys, 24.0 MB moved in 0.42 s; lost: 12 keys, 1.5 MB, of which 1 cannot be computed "
        "again: a, b and 10 more; not finished: 1 tasks: c".format(REASONS[reason])
    )


def security(directory: Path, days: float, **options: object) -> Security:
    """What Dask knows of a certificate that expires in so many days."""
    authority = certificates.authority()
    identity = certificates.issue(authority, ["here"], days)
    own, trusted = directory / "host.pem", directory / "ca.crt"
    own.write_text(identity.key_text() + identity.certificate_text)
    trusted.write_text(authority.certificate_text)
    files = {"tls_ca_file": str(trusted), "tls_worker_cert": str(own), "tls_worker_key": str(own)}
    return Security(require_encryption=True, **files, **options)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("days", [365, 1, -2], ids="{0} days".format)
def test_the_expiry_of_the_certificate_in_use_is_known_also_when_it_is_over(
    tmp_path: Path, days: int, version: ssl.TLSVersion
) -> None:
    expiries = certificate_expiries(
        security(tmp_path, days, tls_min_version=version, tls_max_version=version), "worker"
    )
    left = {name: (seconds - time.time()) / 86400 for name, seconds in expiries.items()}
    assert left == {"host": pytest.approx(days, abs=0.01), "authority": pytest.approx(3650, abs=0.01)}


def test_without_encryption_nothing_expires() -> None:
    assert certificate_expiries(Security(), "worker") == {}


class Holder:
    """What is of interest in a worker that has begun to listen."""

    def __init__(self, directory: Path) -> None:
        self.security = security(directory, 365)
        self.connection_args = self.security.get_connection_args("worker")
        self.rpc = types.SimpleNamespace(connection_args=self.connection_args)
        self.server_args = {"ssl_options": self.security.get_listen_args("worker")["ssl_context"]}
        self.tcp_server = types.SimpleNamespace(ssl_options=self.server_args["ssl_options"])
        self.listeners = [self, types.SimpleNamespace(server_args={})]

    @property
    def contexts(self) -> list[object]:
        return [
            self.connection_args["ssl_context"],
            self.rpc.connection_args["ssl_context"],
            self.server_args["ssl_options"],
            self.tcp_server.ssl_options,
        ]


def test_files_that_changed_are_loaded_once_in_place_of_those_before(tmp_path: Path) -> None:
    holder = Holder(tmp_path)
    found = Certificates(holder)
    found.look()
    first = holder.contexts
    found.look()
    assert holder.contexts == first
    assert found.expiries["host"] - time.time() == pytest.approx(365 * 86400, abs=600)

    security(tmp_path, 100)
    found.look()
    assert not set(map(id, holder.contexts)) & set(map(id, first))
    assert found.expiries["host"] - time.time() == pytest.approx(100 * 86400, abs=600)


BROKEN = {
    "no certificate": lambda _key, _certificate, _other: "no certificate",
    "half a file": lambda key, certificate, _other: (key + certificate)[:-40],
    "another's key": lambda _key, certificate, other: other.key_text() + certificate,
    "another authority's certificate": lambda _key, _certificate, other: other.key_text() + other.certificate_text,
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_files_that_do_not_fit_are_said_once_and_cost_nothing(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    broken: t.Callable[[str, str, certificates.Identity], str],
) -> None:
    holder = Holder(tmp_path)
    found = Certificates(holder)
    found.look()
    contexts, expiries = holder.contexts, found.expiries
    text = (tmp_path / "host.pem").read_text()
    cut = text.index("-----BEGIN CERT")
    other = certificates.issue(certificates.authority(), ["here"])
    with caplog.at_level(logging.INFO, "distributed.flotilla"):
        (tmp_path / "host.pem").write_text(broken(text[:cut], text[cut:], other))
        for _each in range(3):
            found.look()
        assert (holder.contexts, found.expiries) == (contexts, expiries)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "cannot be used yet, those before stay in use: " in caplog.text
        (tmp_path / "host.pem").write_text(text)
        found.look()
    assert holder.contexts[0] is not contexts[0]
    assert "loaded the certificates in " in caplog.records[-1].message


def test_without_encryption_and_with_texts_there_is_nothing_to_look_at(tmp_path: Path) -> None:
    files = security(tmp_path, 365)
    texts = {
        "tls_ca_file": (tmp_path / "ca.crt").read_text(),
        "tls_worker_cert": (tmp_path / "host.pem").read_text(),
        "tls_worker_key": (tmp_path / "host.pem").read_text(),
    }
    for each, paths in ((Security(), 0), (Security(**texts), 0), (files, 2)):
        assert len(Certificates(types.SimpleNamespace(security=each)).paths) == paths


def test_lines_say_what_is_revoked_and_the_rest_of_the_file_does_not() -> None:
    text = certificates.authority().certificate_text + "Revoked: 0A5F alice\nRevoked: 77 bob b.\nNot Revoked: 1 eve\n"
    assert revoked_certificates(text) == {"A5F": "alice", "77": "bob b."}
    assert serial_number({"serialNumber": "0A5F"}) == "A5F"
    assert serial_number(None) == serial_number({}) == ""


def test_the_name_of_what_is_trusted_is_that_of_the_whole_text() -> None:
    assert trust_name("one\n") == trust_name("one") != trust_name("one\nRevoked: 1 alice")
    assert len(trust_name("one")) < 256


Pair = t.Tuple[socket.socket, socket.socket]


@pytest.fixture(
    params=[
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.2"),
        ("::1", "::1"),
        ("::", "127.0.0.1"),
        ("127.0.0.1", "::ffff:127.0.0.1"),
    ]
)
def connection(request: pytest.FixtureRequest) -> t.Iterator[Pair]:
    """The two ends of a connection of this process with itself: the client's and the server's."""
    listens_on, connects_to = request.param
    family = socket.AF_INET6 if ":" in listens_on else socket.AF_INET
    with socket.create_server((listens_on, 0), family=family, dualstack_ipv6=listens_on == "::") as server:
        client = socket.socket(socket.AF_INET6 if ":" in connects_to else socket.AF_INET)
        client.connect((connects_to, server.getsockname()[1]))
        end, _address = server.accept()
        with client, end:
            yield client, end


def test_the_account_at_the_other_end_is_found(connection: Pair) -> None:
    _client, end = connection
    assert account_of(end.getpeername(), end.getsockname()) == os.geteuid()
    assert may_read(end)


def test_another_account_may_read_once_the_file_says_so(
    connection: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _client, end = connection
    monkeypatch.setattr("os.geteuid", lambda: 4711)  # whom the server runs as
    monkeypatch.setattr(in_process, "account_of", lambda *_ends: 4712)
    monkeypatch.setenv("FLOTILLA_READERS", str(tmp_path / "readers"))
    assert not may_read(end)
    (tmp_path / "readers").write_text("12 other\n\nnonsense 4712\n-4712\n4712x\n4712 alice\n")
    assert may_read(end)
    assert readers() == {0, 12, 4711, 4712}
    (tmp_path / "readers").write_text("12 other\n")
    assert not may_read(end)


def test_whoever_closed_the_connection_is_nobody_though_the_kernel_counts_it_as_root_s(connection: Pair) -> None:
    client, end = connection
    client.sendall(b"GET / HTTP/1.1\r\n\r\n")
    theirs, ours = end.getpeername(), end.getsockname()
    client.close()
    assert account_of(theirs, ours) is None


def test_another_host_is_the_firewall_s_business() -> None:
    class Elsewhere:
        def getpeername(self) -> tuple[str, int]:
            return "192.0.2.7", 40000

        def getsockname(self) -> tuple[str, int]:
            return "192.0.2.8", 8787

    assert may_read(t.cast(socket.socket, Elsewhere()))
