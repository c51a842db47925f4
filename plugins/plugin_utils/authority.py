# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The directory on the controller that has a cluster's authority and its clients' bundles (private to this collection).

A key and its certificate are written together into a directory with a temporary name, which is then renamed. So a run
that is killed leaves the old ones or the new ones. Whoever changes the directory holds its lock, and first completes
or removes what a killed run left.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import posixpath
import re
import ssl
import stat
import typing as t
from dataclasses import dataclass, field

from ansible.errors import AnsibleFilterError

from ansible_collections.flotilla.dask.plugins.filter.certificates import certificate_due, certificate_problem
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._exclusive import exclusive
from ansible_collections.flotilla.dask.plugins.module_utils._files import (
    directory_status,
    make_directory,
    names_in,
    opened,
    read_text,
    remove_tree,
    status,
    write_text,
)

LOCK = "lock"
RECORD = "issued.json"
"""Name of the list of all authorities and bundles that were ever made here. It stays when they are removed."""
ISSUER = "issuer"
"""Name of the link to the authority that issues."""
CLIENTS = "clients"
BUNDLE = ("ca.crt", "client.crt", "client.key", "dask.yaml")
"""Names of a bundle's files."""
IGNORED = "{0}/\n{1}\n".format(CLIENTS, LOCK)
"""What a repository leaves out: keys, and who is at work."""
_IGNORED_BEFORE = "{0}/\n".format(CLIENTS)
PLACEHOLDER = "(a certificate that is issued when this is run without check mode)"
"""Stands in check mode where a certificate will be."""

_AUTHORITY = re.compile(r"ca-([1-9][0-9]*)")
_KIND = r"(?P<kind>new|old|gone|flotilla-[0-9]+)"
_TEMPORARY = re.compile(r"\.(?P<name>ca-[0-9]+|issuer|clients|\.gitignore|issued\.json)\." + _KIND)
_TEMPORARY_BUNDLE = re.compile(r"\.(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\." + _KIND)
_PEM = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_KINDS = ("authorities", "bundles")
_KEYS = ("fingerprint", "name")

Record = t.Dict[str, t.List[t.Dict[str, str]]]
Change = t.Dict[str, str]


class Maker(t.Protocol):
    """Makes keys and certificates; ``plugin_utils/issuing.py`` has the one that the collection uses."""

    def make_key(self, curve: str = ..., passphrase: str = ...) -> str: ...

    def make_authority(self, key: str, passphrase: str, name: str, days: int) -> str: ...

    def issue(
        self, names: t.Sequence[str], usage: t.Sequence[str], days: int, authority: tuple[str, str] | None = ...
    ) -> tuple[str, str]: ...


class Render(t.Protocol):
    """Returns Dask's configuration for a client."""

    def __call__(self, client: str, trusted: str, certificate: str, key: str) -> str: ...


@dataclass(frozen=True)
class Wishes:
    """What the directory is to have. ``phase`` and the numbers of days are options of the role dask_certificates.

    ``clients``: names of those who are to have a bundle; other bundles stay as they are.
    """

    cluster: str
    passphrase: str
    phase: str
    days: int
    renew_days: int
    authority_days: int
    clients: tuple[str, ...]


@dataclass
class Found:
    """What the directory has. ``certificates``: of the authorities by their number, the oldest first.

    ``issuer``: number of the authority that issues, 0 for none. ``clients``: names of those who have a certificate.
    """

    certificates: dict[int, str] = field(default_factory=dict)
    issuer: int = 0
    clients: list[str] = field(default_factory=list)
    record: Record = field(default_factory=lambda: {kind: [] for kind in _KINDS})

    @property
    def certificate(self) -> str:
        """That of the authority that issues; empty where none does, or it is to be made."""
        found = self.certificates.get(self.issuer, "")
        return "" if found == PLACEHOLDER else found

    @property
    def trusted(self) -> str:
        """The certificates of all authorities."""
        return "\n".join(self.certificates.values())

    @property
    def known(self) -> list[str]:
        """The fingerprints of all authorities that there are, or were."""
        present = {print_ for text in self.certificates.values() for print_ in fingerprints(text)}
        return sorted(present | {each["fingerprint"] for each in self.record["authorities"]})

    @property
    def revoked(self) -> list[str]:
        """The lines that tell processes which certificates are revoked, as they read them."""
        revoked = (each for each in self.record["bundles"] if each.get("revoked") and each.get("serial"))
        return ["Revoked: {0} {1}".format(each["serial"], each["name"]) for each in revoked]

    @property
    def given(self) -> list[str]:
        """The names of those who have, or ever had, a certificate."""
        return sorted({*self.clients, *(each["name"] for each in self.record["bundles"])})

    def as_dict(self) -> dict[str, t.Any]:
        return {
            "numbers": list(self.certificates),
            "issuer": self.issuer,
            "certificate": self.certificate,
            "trusted": self.trusted,
            "clients": self.clients,
            "known": self.known,
            "revoked": self.revoked,
        }


def read(directory: str) -> Found:
    """Returns what a directory has; of one that doesn't exist, nothing.

    :raises DaskError: it is somebody else's directory, or the list of what was issued is not readable.
    """
    refuse_foreign(directory)
    numbers = sorted(int(match.group(1)) for match in map(_AUTHORITY.fullmatch, names_in(directory)) if match)
    texts = {number: read_text(_authority(directory, number) + "/ca.crt") for number in numbers}
    certificates = {number: text.strip() for number, text in texts.items() if text is not None}
    place = posixpath.join(directory, CLIENTS)
    return Found(
        certificates,
        _issuer(directory, certificates),
        [name for name in names_in(place) if _has_certificate(place, name)],
        _read_record(posixpath.join(directory, RECORD)),
    )


def refuse_foreign(directory: str) -> None:
    """:raises DaskError: the directory has files, and none of them is one of ours."""
    names = [name for name in names_in(directory) if name not in (LOCK, ".gitignore")]  # a run may have got that far
    marks = (name in (RECORD, ISSUER) or _AUTHORITY.fullmatch(name) or _TEMPORARY.fullmatch(name) for name in names)
    if names and not any(marks):
        raise DaskError(
            "dask_certificates_directory: {0!r} is refused: it has files, such as {1}, and no authority. Allowed: a "
            "directory with the authority of this cluster, an empty one, or one that can be made.".format(
                directory, names[0]
            )
        )


def check_key(directory: str, number: int, passphrase: str) -> None:
    """Looks whether an authority can issue.

    :raises DaskError: its key is not there, another passphrase opens it, or it is another certificate's.
    """
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509 import load_pem_x509_certificate

    place = _authority(directory, number)
    lost = (
        "If it is lost, move {0} away and run flotilla.dask.site with -e dask_certificates_new_authority=true: it "
        "makes a new authority, every host gets a new certificate, and clients need new bundles.".format(directory)
    )
    try:
        key = load_pem_private_key((read_text(place + "/ca.key") or "").encode(), passphrase.encode())
    except (OSError, ValueError, TypeError) as error:
        raise DaskError(
            "dask_certificates_passphrase does not open {0}/ca.key ({1}). Allowed: the passphrase that the cluster's "
            "authority was made with. {2}".format(place, type(error).__name__, lost)
        ) from error
    try:
        belongs = (
            load_pem_x509_certificate((read_text(place + "/ca.crt") or "").encode()).public_key() == key.public_key()
        )
    except ValueError:
        belongs = False
    if not belongs:
        raise DaskError(
            "{0}/ca.key is refused: it is not the key of the certificate {0}/ca.crt. Restore both from the same copy. "
            "{1}".format(place, lost)
        )


def fingerprints(certificates: str) -> list[str]:
    """Returns the SHA-256 fingerprints of the certificates in a text, as openssl prints them."""
    found = []
    for each in _PEM.findall(certificates):
        with contextlib.suppress(ValueError):  # a damaged one is nobody's
            digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(each)).hexdigest().upper()
            found.append(":".join(re.findall("..", digest)))
    return found


@contextlib.contextmanager
def alone(directory: str, wait: float) -> t.Iterator[None]:
    """Nobody else changes the directory inside, and what a killed run left is completed or removed before.

    :param wait: For how many seconds to wait for another run that changes it.
    :raises DaskError: another run held it all the time.
    """
    with exclusive(posixpath.join(directory, LOCK), wait, "dask_certificates_directory {0}".format(directory)):
        _mend(directory, _TEMPORARY)
        _mend(posixpath.join(directory, CLIENTS), _TEMPORARY_BUNDLE)
        yield


class Keeper:
    """Changes the directory. ``changes`` has what was changed, as a diff; in check mode what would be.

    :param render: Makes Dask's configuration for a client.
    :param wait: For how many seconds to wait for another run that changes it.
    """

    def __init__(
        self, directory: str, maker: Maker, render: Render | None = None, check_mode: bool = False, wait: float = 600
    ) -> None:
        self.directory = directory
        self.found = Found()
        self.changes: list[Change] = []
        self._maker = maker
        self._render = render or _no_configuration
        self._check_mode = check_mode
        self._wait = wait

    def keep(self, wishes: Wishes) -> None:
        """Has authorities and bundles as they are wished for.

        :raises DaskError: another run holds the directory for too long, or the authority cannot issue.
        """
        refuse_foreign(self.directory)
        if not self._check_mode and directory_status(self.directory) is None:
            make_directory(self.directory)
        with self._alone():
            self.found = read(self.directory)
            self._keep_authorities(wishes)
            self._adopt()
            for client in wishes.clients:
                self._keep_bundle(client, wishes)

    def remove(self) -> None:
        """Removes authorities and bundles. The list of what was issued stays, as far as there is one.

        :raises DaskError: another run holds the directory for too long.
        """
        refuse_foreign(self.directory)
        if not set(names_in(self.directory)) - {RECORD}:
            return
        with self._alone():
            self.found = read(self.directory)
            self._adopt()
            for name in (CLIENTS, ISSUER, *(name for name in names_in(self.directory) if _AUTHORITY.fullmatch(name))):
                self._remove(name)
            if read_text(self._path(".gitignore")) == IGNORED:
                self._remove(".gitignore")
            if not self._check_mode:
                remove_tree(self._path(LOCK))
            self.found = Found(record=self.found.record)

    def revoke(self, client: str) -> None:
        """Withdraws every certificate that a client was ever given, and removes its bundle.

        A bundle that was renewed leaves the certificate before it good until that expires.

        :raises DaskError: nobody of that name was ever given one; or another run holds the directory for too long.
        """
        given = read(self.directory).given
        if client not in given:
            raise DaskError(
                "dask_client_name: {0!r} is refused: no certificate was ever issued for it in {1}. Allowed: "
                "{2}.".format(client, self.directory, ", ".join(given) or "nobody, as nobody has a certificate")
            )
        with self._alone():
            self.found = read(self.directory)
            self._adopt()
            entries = [each for each in self.found.record["bundles"] if each["name"] == client]
            if not all(each.get("revoked") for each in entries):
                before = _record_text(self.found.record)
                now = datetime.datetime.now(datetime.timezone.utc)
                for each in entries:
                    each.setdefault("revoked", "{0:%Y-%m-%dT%H:%M:%SZ}".format(now))
                after = _record_text(self.found.record)
                self._do(self._path(RECORD), before, after, lambda: write_text(self._path(RECORD), after, 0o600))
            # The list first: of a run that is killed in between, the next one removes the bundle.
            if client in self.found.clients:
                bundle = posixpath.join(self._path(CLIENTS), client)
                self._do(bundle, "bundle\n", "", lambda: remove_tree(bundle))
                self.found.clients.remove(client)

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._check_mode else alone(self.directory, self._wait)

    def _keep_authorities(self, wishes: Wishes) -> None:
        found = self.found
        ignore = self._path(".gitignore")
        present = read_text(ignore) or ""
        if present in ("", _IGNORED_BEFORE):  # another one is somebody's own
            self._do(ignore, present, IGNORED, lambda: write_text(ignore, IGNORED))
        if not found.certificates or (wishes.phase == "trust" and len(found.certificates) == 1):
            self._make_authority(wishes)
        newest = max(found.certificates)
        if not found.issuer or (wishes.phase == "issue" and found.issuer != newest):
            before = "ca-{0}\n".format(found.issuer) if found.issuer else ""
            self._do(self._path(ISSUER), before, "ca-{0}\n".format(newest), lambda: self._link_issuer(newest))
            found.issuer = newest
        if wishes.phase == "retire":
            for number in set(found.certificates) - {found.issuer}:
                self._adopt()  # it is still known afterwards
                self._remove("ca-{0}".format(number))
                del found.certificates[number]
        if found.certificate:
            check_key(self.directory, found.issuer, wishes.passphrase)

    def _make_authority(self, wishes: Wishes) -> None:
        names = names_in(self.directory)
        number = 1 + max([int(match.group(1)) for match in map(_AUTHORITY.fullmatch, names) if match], default=0)

        def make() -> None:
            key = self._maker.make_key("secp384r1", wishes.passphrase)
            name = "flotilla.dask {0}".format(wishes.cluster)
            certificate = self._maker.make_authority(key, wishes.passphrase, name, wishes.authority_days)
            self._put(self.directory, "ca-{0}".format(number), {"ca.crt": (certificate, 0o644), "ca.key": (key, 0o600)})
            self.found.certificates[number] = certificate.strip()

        self.found.certificates[number] = PLACEHOLDER
        self._do(_authority(self.directory, number), "", "authority, its key encrypted\n", make)

    def _link_issuer(self, number: int) -> None:
        temporary = ".{0}.new".format(ISSUER)
        with opened(self.directory) as directory:
            os.symlink("ca-{0}".format(number), temporary, dir_fd=directory)
            os.rename(temporary, ISSUER, src_dir_fd=directory, dst_dir_fd=directory)
            _sync(directory)

    def _keep_bundle(self, client: str, wishes: Wishes) -> None:
        """Issues a bundle, or writes it anew for other authorities or another address, with the key that it has."""
        place = posixpath.join(self._path(CLIENTS), client)
        found, trusted = self.found, self.found.trusted
        texts = {name: read_text(posixpath.join(place, name)) or "" for name in BUNDLE}
        certificate, key = texts["client.crt"], texts["client.key"]
        reason = "a new one was asked for" if wishes.phase == "renew" else ""
        reason = reason or self._problem(client, certificate, key, wishes.renew_days)
        if reason:
            before = "certificate with fingerprint {0}\n".format(*fingerprints(certificate) or ["unknown"])
            if self._check_mode:
                self._note("bundles", [_entry(client, PLACEHOLDER)])

            def issue() -> None:
                authority = _authority(self.directory, found.issuer), wishes.passphrase
                key, certificate = self._maker.issue([client], ["clientAuth"], wishes.days, authority)
                self._note("bundles", [_entry(client, certificate, now=True)])
                self._write_bundle(client, trusted, certificate, key)

            self._do(place, before if certificate else "", "a new certificate: {0}\n".format(reason), issue)
        elif texts != self._bundle(client, trusted, certificate, key):
            before = "other authorities, or another address of the scheduler\n"
            after = "the certificate that it had\n"
            self._do(place, before, after, lambda: self._write_bundle(client, trusted, certificate, key))
        if client not in found.clients:
            found.clients = sorted([*found.clients, client])

    def _problem(self, client: str, certificate: str, key: str, renew_days: int) -> str:
        """Returns in words why a client needs another certificate, or an empty string."""
        if certificate and not fingerprints(certificate):
            return "the one that is there is damaged"
        try:
            return certificate_due(certificate, self.found.certificate, [client], renew_days) or certificate_problem(
                certificate, key
            )
        except AnsibleFilterError:
            return "the one that is there is damaged"

    def _bundle(self, client: str, trusted: str, certificate: str, key: str) -> dict[str, str]:
        configuration = self._render(client, trusted, certificate.strip(), key.strip())
        return dict(zip(BUNDLE, (trusted + "\n", certificate, key, configuration)))

    def _write_bundle(self, client: str, trusted: str, certificate: str, key: str) -> None:
        make_directory(self._path(CLIENTS), mode=0o755)
        texts = self._bundle(client, trusted, certificate, key)
        self._put(self._path(CLIENTS), client, {name: (text, 0o600) for name, text in texts.items()})

    def _adopt(self) -> None:
        """Puts on the list what is there and not on it: an authority that was just made, or a bundle of old."""
        noted = {each["fingerprint"] for kind in _KINDS for each in self.found.record[kind]}
        there = {
            "authorities": {"ca-{0}".format(number): text for number, text in self.found.certificates.items()},
            "bundles": {
                client: read_text(posixpath.join(self._path(CLIENTS), client, "client.crt")) or ""
                for client in self.found.clients
            },
        }
        for kind, texts in there.items():
            entries = [_entry(name, text) for name, text in texts.items() if set(_prints(text)) - noted]
            if any(entries):
                self._note(kind, list(filter(None, entries)))

    def _note(self, kind: str, entries: list[dict[str, str]]) -> None:
        before = _record_text(self.found.record) if any(self.found.record.values()) else ""
        self.found.record[kind] += entries
        after = _record_text(self.found.record)
        self._do(self._path(RECORD), before, after, lambda: write_text(self._path(RECORD), after, 0o600))

    def _put(self, parent: str, name: str, files: t.Mapping[str, tuple[str, int]]) -> None:
        """Writes a directory and puts it in the place of what has its name.

        :param files: Text and mode of each.
        """
        new, old = (".{0}.{1}".format(name, kind) for kind in ("new", "old"))
        place = posixpath.join(parent, new)
        make_directory(place, mode=0o700)
        for file, (text, mode) in files.items():
            write_text(posixpath.join(place, file), text, mode)
        with opened(place) as directory:
            _sync(directory)
        with opened(parent) as directory:
            with contextlib.suppress(FileNotFoundError):
                os.rename(name, old, src_dir_fd=directory, dst_dir_fd=directory)
            os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)
            _sync(directory)
        remove_tree(posixpath.join(parent, old))

    def _remove(self, name: str) -> None:
        if status(self._path(name)) is not None:
            self._do(self._path(name), "present\n", "", lambda: self._take_away(name))

    def _take_away(self, name: str) -> None:
        gone = ".{0}.gone".format(name)
        with opened(self.directory) as directory:
            os.rename(name, gone, src_dir_fd=directory, dst_dir_fd=directory)
        remove_tree(self._path(gone))

    def _do(self, what: str, before: str, after: str, do: t.Callable[[], object]) -> None:
        if not self._check_mode:
            do()
        self.changes.append(_change(what, before, after))

    def _path(self, name: str) -> str:
        return posixpath.join(self.directory, name)


def _change(what: str, before: str, after: str) -> Change:
    return {"before_header": what, "after_header": what, "before": before, "after": after}


def _authority(directory: str, number: int) -> str:
    return posixpath.join(directory, "ca-{0}".format(number))


def _issuer(directory: str, certificates: t.Container[int]) -> int:
    try:
        target = os.readlink(posixpath.join(directory, ISSUER))
    except OSError:
        return 0
    match = _AUTHORITY.fullmatch(posixpath.basename(target.rstrip("/")))
    return int(match.group(1)) if match and int(match.group(1)) in certificates else 0


def _read_record(path: str) -> Record:
    text = read_text(path)
    try:
        found = json.loads(text) if text else {}
        record = {kind: [dict(each) for each in found.get(kind, [])] for kind in _KINDS}
        if not all(isinstance(each[key], str) for kind in _KINDS for each in record[kind] for key in _KEYS):
            raise ValueError("a name or a fingerprint is not a text")
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise DaskError(
            "{0} is refused: it is not the list of issued certificates that the collection wrote ({1}). Restore it, or "
            "move it away: then the list starts with the authorities and bundles that are there.".format(path, error)
        ) from error
    return record


def _record_text(record: Record) -> str:
    return json.dumps(record, indent=2, sort_keys=True) + "\n"


def _entry(name: str, certificate: str, now: bool = False) -> dict[str, str]:
    """Returns a line of the list, nothing for a certificate that is damaged.

    ``now``: whether it is issued now; else it is taken to be from when on it is good.
    """
    if certificate == PLACEHOLDER:
        return {"name": name, "fingerprint": PLACEHOLDER}
    from cryptography.x509 import load_pem_x509_certificate

    try:
        found = load_pem_x509_certificate(certificate.encode())
    except ValueError:
        return {}
    issued = datetime.datetime.now(datetime.timezone.utc) if now else found.not_valid_before_utc
    return {
        "name": name,
        "serial": _in_pairs("{0:X}".format(found.serial_number)),
        "fingerprint": fingerprints(certificate)[0],
        "issued": "{0:%Y-%m-%dT%H:%M:%SZ}".format(issued),
        "expires": "{0:%Y-%m-%dT%H:%M:%SZ}".format(found.not_valid_after_utc),
    }


def _in_pairs(digits: str) -> str:
    """A hexadecimal number as openssl prints it."""
    return "0" * (len(digits) % 2) + digits


def _no_configuration(client: str, trusted: str, certificate: str, key: str) -> str:
    """For whoever makes no bundles."""
    del trusted, certificate, key
    raise DaskError("There is no template for the configuration of {0}.".format(client))


def _prints(certificate: str) -> list[str]:
    return [PLACEHOLDER] if certificate == PLACEHOLDER else fingerprints(certificate)


def _has_certificate(place: str, name: str) -> bool:
    found = status(posixpath.join(place, name))
    is_bundle = found is not None and stat.S_ISDIR(found.st_mode) and not name.startswith(".")
    return is_bundle and status(posixpath.join(place, name, "client.crt")) is not None


def _mend(place: str, temporary: re.Pattern[str]) -> None:
    """Completes the exchange of a directory that was interrupted, and removes everything else that is temporary."""
    names = set(names_in(place))
    for match in filter(None, map(temporary.fullmatch, sorted(names))):
        name, new, old = match["name"], ".{0}.new".format(match["name"]), match.group()
        if match["kind"] == "old" and name not in names:
            # The old one made way for a new one that was complete.
            with opened(place) as directory:
                os.rename(new if new in names else old, name, src_dir_fd=directory, dst_dir_fd=directory)
    for match in filter(None, map(temporary.fullmatch, names_in(place))):
        remove_tree(posixpath.join(place, match.group()))


def _sync(directory: int) -> None:
    """Has the names in a directory on the disk."""
    descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
