# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Locks of Python packages: what one was made from, and which of its files a host's Python needs.

Private to this collection. Pure Python without I/O. A lock is a ``pylock.toml``, which pip and uv read too; it has the
files of all platforms and Pythons. It is read where Ansible runs, with the package ``packaging``, which ansible-core
needs.
"""

from __future__ import annotations

import functools
import re
import typing as t

from ansible_collections.flotilla.dask.plugins.module_utils._digest import digest
from ansible_collections.flotilla.dask.plugins.module_utils._downloads import file_name
from ansible_collections.flotilla.dask.plugins.module_utils._locks import LockError, Package
from ansible_collections.flotilla.dask.plugins.module_utils._platform import Python

ALLOWED = "Allowed: a pylock.toml, of this collection, uv or pip"

_MADE_FROM = re.compile(r"^# flotilla\.dask made this from the requirements ([0-9a-f]{12})\.", re.MULTILINE)
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_OLDEST = re.compile(r">=\s*([0-9]+\.[0-9]+)")
_COMMENT = re.compile(r"(^|\s)#.*")
_HEAD = (
    "# flotilla.dask made this from the requirements {0}. Keep it under version control; hosts install exactly this.\n"
)


def requirements_digest(requirements: t.Sequence[str], constraints: str) -> str:
    """Returns what changes exactly when the meaning does: not for the order, comments or white space."""
    lines = (_COMMENT.sub("", line) for line in constraints.splitlines())
    parts = [sorted({" ".join(each.split()) for each in part} - {""}) for part in (requirements, lines)]
    return digest(parts)


def with_head(lock: str, made_from: str) -> str:
    """Returns a lock's text that says what it was made from."""
    return _HEAD.format(made_from) + lock


def made_from(lock: str) -> str:
    """Returns what a lock says that it was made from; empty for one that was made elsewhere."""
    match = _MADE_FROM.search(lock)
    return match[1] if match else ""


def oldest_python(lock: str, name: str) -> str:
    """Returns the oldest Python that a lock says it is for, such as 3.11; empty where it doesn't say."""
    match = _OLDEST.search(str(_load(lock, name).get("requires-python", "")))
    return match[1] if match else ""


def is_for(lock: str, name: str, python: Python) -> bool:
    """Whether a lock says that it is for an interpreter. :raises LockError: it is not a lock."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    wanted = str(_load(lock, name).get("requires-python", ""))
    try:
        return SpecifierSet(wanted).contains(python.version, prereleases=True)
    except InvalidSpecifier as error:
        raise LockError("{0}: requires-python {1!r} is refused. {2}.".format(name, wanted, ALLOWED)) from error


def choose(lock: str, name: str, python: Python, sources: bool = False) -> list[Package]:
    """Returns the files that an interpreter needs of a lock.

    :param lock: Its text. ``name``: what it is called in a refusal.
    :param sources: Whether a package without a wheel that fits may be built from its source.
    :raises LockError: it is not a lock, is for other Pythons, or lacks a file that fits.
    """
    from packaging.markers import InvalidMarker, Marker, UndefinedComparison, UndefinedEnvironmentName

    if not is_for(lock, name, python):
        raise LockError(
            "{0} is refused: it is for Python {1}, and a host has {2}. Set another dask_environment_python, or another "
            "dask_environment_lock.".format(name, _load(lock, name)["requires-python"], python.version)
        )
    order = {tag: index for index, tag in enumerate(python.wheel_tags())}
    markers = python.markers()
    chosen = []
    for entry in _load(lock, name)["packages"]:
        try:
            if entry.get("marker") and not Marker(entry["marker"]).evaluate(markers):
                continue
        except (InvalidMarker, UndefinedComparison, UndefinedEnvironmentName, TypeError) as error:
            raise LockError(
                "{0}: marker {1!r} is refused: {2}. {3}.".format(name, entry["marker"], error, ALLOWED)
            ) from error
        chosen.append(_chosen(entry, name, python, order, sources))
    return chosen


def contents(lock: str, name: str) -> list[list[t.Any]]:
    """Returns name, version, marker and hashes of all packages of a lock, whichever the platform."""
    return sorted(
        [
            str(entry["name"]),
            str(entry.get("version", "")),
            str(entry.get("marker", "")),
            sorted(_sha256(file) for file in (*entry.get("wheels", []), *_sources(entry))),
        ]
        for entry in _load(lock, name)["packages"]
    )


@functools.lru_cache(maxsize=4)  # asked for every host's Python, and for several things of each
def _load(lock: str, name: str) -> dict[str, t.Any]:
    import tomllib

    try:
        content: dict[str, t.Any] = tomllib.loads(lock)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise LockError(
            "{0} is refused: it is not TOML ({1}). {2}. If this collection made it, remove it, and run this "
            "again.".format(name, error, ALLOWED)
        ) from error
    if str(content.get("lock-version", "1.0")).partition(".")[0] != "1":
        raise LockError("{0}: lock-version {1!r} is refused. {2}.".format(name, content["lock-version"], ALLOWED))
    packages = content.get("packages")
    if not isinstance(packages, list) or not all(map(_is_package, packages)):
        raise LockError(
            "{0} is refused: it has no list 'packages' of tables with a name and files. {1}.".format(name, ALLOWED)
        )
    return content


def _is_package(entry: t.Any) -> bool:
    if not isinstance(entry, dict):
        return False
    if not all(_WORD.fullmatch(str(entry.get(key, missing))) for key, missing in (("name", ""), ("version", "0"))):
        return False
    files = entry.get("wheels", [])
    return isinstance(files, list) and all(
        isinstance(file, dict) and isinstance(file.get("hashes", {}), dict) for file in (*files, *_sources(entry))
    )


def _sources(entry: t.Mapping[str, t.Any]) -> list[t.Mapping[str, t.Any]]:
    return [entry[kind] for kind in ("sdist", "archive") if kind in entry]


def _sha256(file: t.Mapping[str, t.Any]) -> str:
    return str((file.get("hashes") or {}).get("sha256") or "").lower()


def _chosen(
    entry: t.Mapping[str, t.Any], name: str, python: Python, order: t.Mapping[str, int], sources: bool
) -> Package:
    where = "{0}: package {1} {2}".format(name, entry["name"], entry.get("version", ""))
    files = [*entry.get("wheels", []), *_sources(entry)]
    wheels = [(_rank(file, order), file) for file in files if _file(file).endswith(".whl")]
    fitting = sorted(((rank, file) for rank, file in wheels if rank is not None), key=lambda pair: pair[0])
    built = [file for file in files if not _file(file).endswith(".whl")] if sources else []
    chosen = fitting[0][1] if fitting else built[0] if built else None
    if chosen is None and ("vcs" in entry or "directory" in entry):
        raise LockError(
            "{0} is refused: it is no file that a hash could verify. Allowed: a package of an index or with the "
            "address of a file; put one of your own into dask_environment_plugins.".format(where)
        )
    if chosen is None:
        raise LockError(
            "{0} is refused: it has no wheel for {1}. {2}".format(
                where,
                python.key,
                "Choose another version of it, or another Python on the hosts."
                if sources
                else "Choose another version of it, or set dask_download_on: host, so that hosts build it themselves.",
            )
        )
    if not (_SHA256.fullmatch(_sha256(chosen)) and _WORD.fullmatch(_name_in(chosen.get("url") or ""))):
        raise LockError(
            "{0} is refused: {1!r} has no address or no sha256, so that nobody can verify it. {2}.".format(
                where, _file(chosen), ALLOWED
            )
        )
    if not entry.get("version"):
        raise LockError("{0} is refused: it has no version. {1}.".format(where, ALLOWED))
    return Package(
        name=str(entry["name"]),
        version=str(entry.get("version", "")),
        platform=python.key,
        url=str(chosen["url"]),
        manager="pip",
        sha256=_sha256(chosen),
    )


def _file(file: t.Mapping[str, t.Any]) -> str:
    return str(file.get("name") or _name_in(file.get("url") or file.get("path") or ""))


def _name_in(address: t.Any) -> str:
    try:
        return file_name(str(address))
    except ValueError:  # such as brackets where a server's name belongs
        return ""


def _rank(file: t.Mapping[str, t.Any], order: t.Mapping[str, int]) -> int | None:
    """How far a wheel is from the best one that could be; None where it does not fit."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    try:
        tags = parse_wheel_filename(_file(file))[3]
    except InvalidWheelFilename:
        return None
    ranks = [order[str(tag)] for tag in tags if str(tag) in order]
    return min(ranks) if ranks else None
