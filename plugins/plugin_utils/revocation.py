# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which certificates of clients are revoked (private to this collection).

The directory of certificates on the controller has a list of every certificate that a client was ever given. A client
is revoked by all of them: a bundle that was renewed leaves the certificate before it good until that expires.
"""

from __future__ import annotations

import datetime
import json
import posixpath
import typing as t

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._files import names_in, read_text, remove_tree, write_text

RECORD = "issued.json"
CLIENTS = "clients"
KINDS = ("authorities", "bundles")

Entry = t.Dict[str, str]
Change = t.Dict[str, str]


class Record:
    """What was issued in a directory. An entry of a bundle has ``revoked``, a time, if it is.

    :raises DaskError: the list isn't readable.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.path = posixpath.join(directory, RECORD)
        text = read_text(self.path)
        try:
            found = json.loads(text) if text else {}
            self.entries: dict[str, list[Entry]] = {
                kind: [dict(each) for each in found.get(kind, [])] for kind in KINDS
            }
            if not all(isinstance(each[key], str) for each in self.bundles for key in ("name", "serial")):
                raise ValueError("a name or serial number is not a text")
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise DaskError(
                "{0} is refused: it is not the list of issued certificates that the collection wrote ({1}). Restore "
                "it from a copy of the directory, as it says which certificates are revoked.".format(self.path, error)
            ) from error

    @property
    def bundles(self) -> list[Entry]:
        return self.entries["bundles"]

    @property
    def text(self) -> str:
        return json.dumps(self.entries, indent=2, sort_keys=True) + "\n"

    @property
    def revoked(self) -> list[str]:
        """The lines that tell processes what is revoked, as they read them."""
        return ["Revoked: {serial} {name}".format(**each) for each in self.bundles if each.get("revoked")]

    def adopt(self) -> None:
        """Puts bundles that are there on the list, if they aren't on it."""
        place = posixpath.join(self.directory, CLIENTS)
        for name in names_in(place):
            self.note(name, read_text(posixpath.join(place, name, "client.crt")) or "")

    def note(self, name: str, certificate: str) -> None:
        """Puts a certificate of a client on the list, unless it is damaged or there already."""
        from cryptography.x509 import load_pem_x509_certificate

        try:
            found = load_pem_x509_certificate(certificate.encode())
        except ValueError:
            return
        serial = "{0:X}".format(found.serial_number)
        if serial not in [each["serial"] for each in self.bundles]:
            self.bundles.append(
                {
                    "name": name,
                    "serial": serial,
                    "fingerprint": _fingerprint(certificate),
                    "issued": _time(datetime.datetime.now(datetime.timezone.utc)),
                    "expires": _time(found.not_valid_after_utc),
                }
            )


def issued(directory: str) -> Record:
    """Returns the list of what was issued, with the bundles that are there. :raises DaskError: as ``Record``."""
    record = Record(directory)
    record.adopt()
    return record


def note(directory: str, name: str, certificate: str, check_mode: bool) -> list[Change]:
    """Puts a certificate on the list before a client is given it. Returns what changed."""
    record = issued(directory)
    before = read_text(record.path) or ""
    record.note(name, certificate)
    return _written(record, before, check_mode)


def revoke(directory: str, name: str, check_mode: bool) -> tuple[Record, list[Change]]:
    """Revokes all certificates of a client, and removes its bundle. Returns the list, and what changed.

    :raises DaskError: nobody of that name has ever been given a certificate.
    """
    record = issued(directory)
    entries = [each for each in record.bundles if each["name"] == name]
    if not entries:
        known = sorted({each["name"] for each in record.bundles})
        raise DaskError(
            "dask_client_name: {0!r} is refused: no certificate was ever issued for it in {1}. Allowed: {2}.".format(
                name, directory, ", ".join(known) or "nobody, as nobody has a certificate"
            )
        )
    before = read_text(record.path) or ""
    for entry in entries:
        entry.setdefault("revoked", _time(datetime.datetime.now(datetime.timezone.utc)))
    changes = _written(record, before, check_mode)
    bundle = posixpath.join(directory, CLIENTS, name)
    if name in names_in(posixpath.join(directory, CLIENTS)):
        changes.append({"before_header": bundle, "after_header": bundle, "before": "bundle\n", "after": ""})
        if not check_mode:
            remove_tree(bundle)
    return record, changes


def _written(record: Record, before: str, check_mode: bool) -> list[Change]:
    if record.text == before:
        return []
    if not check_mode:
        write_text(record.path, record.text, 0o600)
    return [{"before_header": record.path, "after_header": record.path, "before": before, "after": record.text}]


def _fingerprint(certificate: str) -> str:
    """The SHA-256 fingerprint, as openssl prints it."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509 import load_pem_x509_certificate

    return load_pem_x509_certificate(certificate.encode()).fingerprint(SHA256()).hex(":").upper()


def _time(time: datetime.datetime) -> str:
    return "{0:%Y-%m-%dT%H:%M:%SZ}".format(time)
