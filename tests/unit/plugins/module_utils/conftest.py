# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A server whose certificate nobody trusts, as behind a proxy that signs HTTPS anew."""

from __future__ import annotations

import datetime
import ssl
import threading
import typing as t
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def certificate(name: str, issuer: str, own: ec.EllipticCurvePrivateKey, signing: ec.EllipticCurvePrivateKey) -> bytes:
    """A certificate for two days, as PEM; that of an authority where it signs itself."""
    subjects = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (name, issuer)]
    now = datetime.datetime.now(datetime.timezone.utc)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subjects[0])
        .issuer_name(subjects[1])
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=own is signing, path_length=None), critical=True)
        .sign(signing, hashes.SHA256())
    )
    return signed.public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="session")
def keys() -> tuple[ec.EllipticCurvePrivateKey, ec.EllipticCurvePrivateKey]:
    """Those of an authority and of a server."""
    return ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def authority(tmp_path: Path, keys: tuple[ec.EllipticCurvePrivateKey, ...]) -> Path:
    """The certificate of an authority that no system trusts."""
    path = tmp_path / "authority.pem"
    path.write_bytes(certificate("lab.example", "lab.example", keys[0], keys[0]))
    return path


@pytest.fixture
def https_server(tmp_path: Path, keys: tuple[ec.EllipticCurvePrivateKey, ...]) -> t.Iterator[str]:
    """An HTTPS server of the test's directory, with a certificate of that authority; gives its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: t.Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *_words: object) -> None:
            pass

    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    identity = tmp_path / "server.pem"
    identity.write_bytes(certificate("localhost", "lab.example", keys[1], keys[0]) + keys[1].private_bytes(*pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity)
    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as httpd:
        httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"https://localhost:{httpd.server_address[1]}"
        httpd.shutdown()
