# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fetches files and verifies them, on the controller and on hosts (private to this collection)."""

from __future__ import annotations

import configparser
import hashlib
import os
import pathlib
import posixpath
import shutil
import ssl
import sys
import tempfile
import time
import typing as t
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from urllib.parse import unquote, urlsplit

from ansible.module_utils.urls import open_url

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError

AT_ONCE = 8
TRIES = 3
TIMEOUT = 60.0
"""Seconds without a byte after which a transfer is given up."""


class DownloadError(DaskError):
    """A file couldn't be fetched, or isn't what it should be."""


@dataclass(frozen=True)
class Item:
    """One file: what it is called, where it is, and by which hash it is known."""

    file: str
    url: str
    md5: str = ""
    sha256: str = ""

    @property
    def _hash(self) -> tuple[str, str]:
        return ("sha256", self.sha256) if self.sha256 else ("md5", self.md5)

    def is_at(self, path: str) -> bool:
        """Whether the file at ``path`` is there, and the one that was asked for."""
        kind, expected = self._hash
        return os.path.exists(path) and (not expected or file_hash(path, kind) == expected)

    def refuse_other(self, path: str) -> None:
        """:raises DownloadError: the file at ``path`` isn't the one that was asked for."""
        kind, expected = self._hash
        if not self.is_at(path):
            raise DownloadError(
                "{0} is refused: its {1} is {2}, not {3} as locked. The file at {4} was damaged or "
                "replaced, or the lock was. Restore the lock, or have it solved anew (dask_environment_update).".format(
                    self.file, kind, file_hash(path, kind), expected, self.url
                )
            )


def file_name(url: str) -> str:
    """Returns the name of the file that an address leads to."""
    return posixpath.basename(unquote(urlsplit(url).path))


def cache_directory(named: str = "") -> str:
    """Returns where a controller keeps what it fetched, by the rules for users' caches.

    :param named: Another directory instead.
    """
    return named or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or str(pathlib.Path.home() / ".cache"), "flotilla-dask"
    )


def configured_index() -> str:
    """Returns the address of the index that pip is configured with, with user and password; empty for none.

    :raises DownloadError: pip's configuration cannot be read, so that another index would stand in for it unsaid.
    """
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    files = [
        "/etc/xdg/pip/pip.conf",
        "/etc/pip.conf",
        "/Library/Application Support/pip/pip.conf",
        os.path.expanduser("~/.pip/pip.conf"),
        os.path.expanduser("~/Library/Application Support/pip/pip.conf"),
        os.path.join(home, "pip", "pip.conf"),
        os.path.join(sys.prefix, "pip.conf"),
        os.environ.get("PIP_CONFIG_FILE", ""),
    ]
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = lambda option: option.lower().replace("_", "-")  # type: ignore[assignment,method-assign]
    for path in filter(None, files):
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError) as error:
            reason = " ".join(str(error).split())
            raise DownloadError(
                "{0} is refused: it cannot be read ({1}), and may name the index. Correct it, or remove it.".format(
                    path, reason
                )
            ) from error
    said = [parser.get(section, "index-url", fallback="") for section in ("install", "global")]
    found = next(filter(None, (os.environ.get("PIP_INDEX_URL", ""), *said)), "").strip()
    if found and urlsplit(found).scheme not in ("http", "https", "file"):
        raise DownloadError(
            "{0!r}, which pip is configured with as its index, is refused. Allowed: an address that starts with "
            "https://, http:// or file://.".format(found)
        )
    return found


def refuse_missing_bundle(path: str) -> None:
    """:raises DaskError: a file of authorities was named that nobody can read, or that is none."""
    if not path:
        return
    try:
        context = ssl.create_default_context(cafile=path)
        problem = "" if context.get_ca_certs() else "it has no certificate"
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or str(error)
    if problem:
        raise DownloadError(
            "dask_ca_bundle: {0!r} is refused: {1}. Allowed: a file on the controller with certificates as PEM.".format(
                path, problem
            )
        )


def file_hash(path: str, kind: str) -> str:
    """Returns the hexadecimal hash of a file."""
    digest = hashlib.sha256() if kind == "sha256" else hashlib.new("md5", usedforsecurity=False)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(2**20), b""):
            digest.update(block)
    return digest.hexdigest()


def fetch(items: t.Iterable[Item], directory: str, ca_bundle: str = "") -> None:
    """Makes every item a file in ``directory``, which may have some already.

    :param ca_bundle: File with the authorities that sign HTTPS servers' certificates; empty for the system's.
    :raises DownloadError: a file isn't there, isn't reachable, or isn't the one that was asked for.
    """
    os.makedirs(directory, exist_ok=True)
    # A pool for those that wait for the network; all are tried, and the first that failed is told.
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda item: _fetch(item, directory, ca_bundle), items))


def _fetch(item: Item, directory: str, ca_bundle: str) -> None:
    target = os.path.join(directory, item.file)
    if item.is_at(target):
        return
    handle, temporary = tempfile.mkstemp(dir=directory, prefix=".part-")
    os.close(handle)
    try:
        _copy(item.url, temporary, ca_bundle)
        item.refuse_other(temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def _copy(url: str, path: str, ca_bundle: str) -> None:
    for left in reversed(range(TRIES)):
        try:
            with _opened(url, ca_bundle) as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target, 2**20)
                return
        except (OSError, ValueError, HTTPException) as error:
            if not left or not _may_pass(error):
                reason = getattr(error, "reason", None) or error
                raise DownloadError("{0} cannot be fetched: {1}. {2}".format(url, reason, _advice(error))) from error
            time.sleep(0.5)


def _opened(url: str, ca_bundle: str) -> t.IO[bytes]:
    parts = urlsplit(url)
    if parts.scheme == "file":
        return open(unquote(parts.path), "rb")
    login = _login(url)
    return t.cast("t.IO[bytes]", open_url(url, timeout=TIMEOUT, ca_path=ca_bundle or None, **login))


def _login(url: str) -> dict[str, t.Any]:
    """What the index says who we are, for files of the same server. A lock has no passwords."""
    for known in (os.environ.get("UV_DEFAULT_INDEX", ""), configured_index()):
        index, asked = urlsplit(known), urlsplit(url)
        if index.username and (index.scheme, index.hostname, index.port) == (asked.scheme, asked.hostname, asked.port):
            words = unquote(index.username), unquote(index.password or "")
            return {"url_username": words[0], "url_password": words[1], "force_basic_auth": True}
    return {}


def _may_pass(error: Exception) -> bool:
    """Whether trying again may help."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (408, 429, 500, 502, 503, 504)
    reason = getattr(error, "reason", error)
    return not isinstance(reason, (ssl.SSLError, FileNotFoundError)) and not isinstance(error, ValueError)


def _advice(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError) and error.code in (401, 403):
        return "The server wants a user and a password: put them into the address of pip's index, on whoever fetches."
    if isinstance(error, urllib.error.HTTPError):
        return "The server has no such file for you; solve anew with dask_environment_update, or check the mirror."
    if isinstance(getattr(error, "reason", error), ssl.SSLError):
        return "Where a proxy signs HTTPS anew, name its authority in dask_ca_bundle."
    if isinstance(getattr(error, "reason", error), FileNotFoundError):
        return "Put it there: dask_wheelhouse and dask_conda_mirror have to have all files of the lock."
    return "Where hosts have no way out, set dask_download_on: controller, or name a mirror in dask_conda_mirror."
