# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Python packages: uv solves them on the controller into a lock, from which each host's files are chosen.

Private to this collection. A lock is a ``pylock.toml``, which pip and uv read too. It has the files of all platforms
and
Pythons. It is used where Ansible runs, with its Python and the package ``packaging``, which ansible-core needs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import typing as t
from dataclasses import dataclass

from ansible_collections.flotilla.dask.plugins.module_utils._digest import digest
from ansible_collections.flotilla.dask.plugins.module_utils._downloads import file_name
from ansible_collections.flotilla.dask.plugins.module_utils._environments import configured_index
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._files import read_text
from ansible_collections.flotilla.dask.plugins.module_utils._locks import UV, LockError, Package

OLDEST_PYTHON = "3.11"
"""What a lock has to fit to at least: the oldest Python that hosts may have."""

MACHINES = {"64": "x86_64", "aarch64": "aarch64", "ppc64le": "ppc64le", "s390x": "s390x", "arm64": "arm64"}
GLIBC = 34
"""Minor version of the GNU C library that wheels may need; see ``_rattler_side.GLIBC``."""

_MADE_FROM = re.compile(r"^# flotilla\.dask made this from the requirements ([0-9a-f]{12})\.", re.MULTILINE)
_HEAD = (
    "# flotilla.dask made this from the requirements {0}. Keep it under version control; hosts install exactly this.\n"
)


@dataclass(frozen=True)
class Python:
    """An interpreter that packages are for.

    ``version``: in full. ``platform``: as conda calls it. ``libc``: version of the GNU C library, empty where unknown.
    """

    version: str
    platform: str
    libc: str = ""

    @property
    def key(self) -> str:
        """What is the same for all hosts that get the same files."""
        return "{0}, Python {1}{2}".format(self.platform, self.version, ", glibc " + self.libc if self.libc else "")

    @property
    def minor(self) -> tuple[int, int]:
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)

    def wheel_tags(self) -> list[str]:
        """Returns the tags of the wheels that fit, the best first."""
        from packaging import tags

        minor = self.libc.partition("2.")[2]
        platforms = wheel_platforms(self.platform, int(minor)) if minor.isdigit() else wheel_platforms(self.platform)
        found = [*tags.cpython_tags(self.minor, platforms=platforms)]
        found += tags.compatible_tags(self.minor, "cp{0}{1}".format(*self.minor), platforms)
        return list(map(str, found))

    def markers(self) -> dict[str, str]:
        """Returns what a requirement's marker can ask for."""
        system, _dash, machine = self.platform.partition("-")
        return {
            "extra": "",
            "implementation_name": "cpython",
            "implementation_version": self.version,
            "os_name": "posix",
            "platform_machine": MACHINES.get(machine, machine),
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Darwin" if system == "osx" else "Linux",
            "platform_version": "",
            "python_full_version": self.version,
            "python_version": "{0}.{1}".format(*self.minor),
            "sys_platform": "darwin" if system == "osx" else system,
        }


@dataclass(frozen=True)
class Solver:
    """uv on the controller.

    ``ca_bundle``: file with the authorities that are trusted; empty for the system's. ``wheelhouse``: directory or
    address of the wheels to take instead of an index; empty for none. ``cache``: directory.
    """

    cache: str = ""
    ca_bundle: str = ""
    wheelhouse: str = ""

    def solve(
        self,
        requirements: t.Sequence[str],
        constraints: str = "",
        python: str = OLDEST_PYTHON,
        before: str = "",
        words: t.Sequence[str] = (),
    ) -> str:
        """Returns the text of a lock that meets requirements on every platform.

        :param constraints: The text of pip's constraints file.
        :param python: Version of the oldest Python that it is for.
        :param before: The text of a lock to stay with where that is possible.
        :raises DaskError: uv is not there, or has no solution; the message has its explanation.
        """
        with tempfile.TemporaryDirectory(prefix="flotilla-") as directory:
            paths = [os.path.join(directory, name) for name in ("requirements.in", "constraints.txt", "pylock.toml")]
            for path, text in zip(paths, ("\n".join(requirements), constraints, before)):
                if text or path != paths[2]:
                    with open(path, "w", encoding="utf-8") as file:
                        file.write(text + "\n")
            self._run(
                *("pip", "compile", "--quiet", "--universal", "--no-header", "--python-version", python),
                *("--constraint", paths[1], "--output-file", paths[2], *words, paths[0]),
            )
            return read_text(paths[2]) or ""

    def _run(self, *words: str) -> None:
        source = ["--no-index", "--find-links", self.wheelhouse] if self.wheelhouse else []
        done = subprocess.run(
            [controller_uv(), *words, *source],
            env={**os.environ, **self._environment()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise DaskError(" ".join(done.stderr.split()))

    def _environment(self) -> dict[str, str]:
        own = {"NO_COLOR": "1", "UV_NO_CONFIG": "1", "UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never"}
        own.update({"UV_PYTHON": sys.executable, "UV_SYSTEM_CERTS": "1"})
        index = "" if "UV_DEFAULT_INDEX" in os.environ else configured_index()
        own.update({"UV_DEFAULT_INDEX": index} if index else {})
        own.update({"UV_CACHE_DIR": os.path.join(self.cache, "uv-cache")} if self.cache else {})
        return {**own, **({"SSL_CERT_FILE": self.ca_bundle} if self.ca_bundle else {})}


def controller_uv() -> str:
    """Returns the path of uv. :raises DaskError: there is none."""
    beside = os.path.dirname(sys.executable)
    found = shutil.which("uv", path=os.pathsep.join((beside, os.environ.get("PATH", ""))))
    if not found:
        raise DaskError(
            "There is no uv on the controller, which finds out which Python packages hosts get. Install it with "
            "'{0} -m pip install {1}'.".format(sys.executable, UV)
        )
    return found


def requirements_digest(requirements: t.Sequence[str], constraints: str) -> str:
    """Returns what changes exactly when the meaning does: not for the order, comments or white space."""
    lines = (line.partition("#")[0] for line in constraints.splitlines())
    parts = [sorted({" ".join(each.split()) for each in part} - {""}) for part in (requirements, lines)]
    return digest(parts)


def with_head(lock: str, made_from: str) -> str:
    """Returns a lock's text that says what it was made from."""
    return _HEAD.format(made_from) + lock


def made_from(lock: str) -> str:
    """Returns what a lock says that it was made from; empty for one that was made elsewhere."""
    match = _MADE_FROM.search(lock)
    return match[1] if match else ""


def choose(lock: str, name: str, python: Python, sources: bool = False) -> list[Package]:
    """Returns the files that an interpreter needs of a lock.

    :param lock: Its text. ``name``: what it is called in a refusal.
    :param sources: Whether a package without a wheel that fits may be built from its source.
    :raises LockError: it is not a lock, is for other Pythons, or lacks a file that fits.
    """
    from packaging.markers import Marker
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    content = _load(lock, name)
    wanted = str(content.get("requires-python", ""))
    try:
        fits = SpecifierSet(wanted).contains(python.version, prereleases=True)
    except InvalidSpecifier as error:
        raise LockError("{0}: requires-python {1!r} is refused. Solve it anew.".format(name, wanted)) from error
    if not fits:
        raise LockError(
            "{0} is refused: it is for Python {1}, and a host has {2}. Set another dask_environment_python, or solve "
            "it anew with dask_environment_update.".format(name, wanted, python.version)
        )
    order = {tag: index for index, tag in enumerate(python.wheel_tags())}
    markers = python.markers()
    return [
        _chosen(entry, name, python, order, sources)
        for entry in content["packages"]
        if not entry.get("marker") or Marker(entry["marker"]).evaluate(markers)
    ]


def contents(lock: str, name: str) -> list[list[t.Any]]:
    """Returns name, version and hashes of all packages of a lock, whichever the platform."""
    return [
        [
            str(entry["name"]),
            str(entry.get("version", "")),
            sorted(_sha256(file) for file in (*entry.get("wheels", []), *_sources(entry))),
        ]
        for entry in _load(lock, name)["packages"]
    ]


def _load(lock: str, name: str) -> dict[str, t.Any]:
    import tomllib

    try:
        content: dict[str, t.Any] = tomllib.loads(lock)
    except tomllib.TOMLDecodeError as error:
        raise LockError("{0} is refused: it is not TOML ({1}). Allowed: a pylock.toml.".format(name, error)) from error
    packages = content.get("packages")
    if not isinstance(packages, list) or not all(isinstance(each, dict) and "name" in each for each in packages):
        raise LockError("{0} is refused: it has no list 'packages'. Allowed: a pylock.toml.".format(name))
    return content


def _sources(entry: t.Mapping[str, t.Any]) -> list[t.Mapping[str, t.Any]]:
    return [entry[kind] for kind in ("sdist", "archive") if kind in entry]


def _sha256(file: t.Mapping[str, t.Any]) -> str:
    return str((file.get("hashes") or {}).get("sha256") or "")


def _chosen(
    entry: t.Mapping[str, t.Any], name: str, python: Python, order: t.Mapping[str, int], sources: bool
) -> Package:
    where = "{0}: package {1} {2}".format(name, entry["name"], entry.get("version", ""))
    files = [*entry.get("wheels", []), *_sources(entry)]
    wheels = [(_rank(file, order), file) for file in files if _file(file).endswith(".whl")]
    fitting = sorted(((rank, file) for rank, file in wheels if rank is not None), key=lambda pair: pair[0])
    built = [file for file in files if not _file(file).endswith(".whl")] if sources else []
    chosen = fitting[0][1] if fitting else built[0] if built else None
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
    if not _sha256(chosen) or not chosen.get("url"):
        raise LockError(
            "{0} is refused: {1} has no address or no sha256, so that nobody can verify it. Solve the lock anew with "
            "dask_environment_update.".format(where, _file(chosen))
        )
    return Package(
        name=str(entry["name"]),
        version=str(entry.get("version", "")),
        platform=python.key,
        url=str(chosen["url"]),
        manager="pip",
        sha256=_sha256(chosen),
    )


def _file(file: t.Mapping[str, t.Any]) -> str:
    return str(file.get("name") or file_name(str(file.get("url") or file.get("path") or "")))


def _rank(file: t.Mapping[str, t.Any], order: t.Mapping[str, int]) -> int | None:
    """How far a wheel is from the best one that could be; None where it does not fit."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    try:
        tags = parse_wheel_filename(_file(file))[3]
    except InvalidWheelFilename:
        return None
    ranks = [order[str(tag)] for tag in tags if str(tag) in order]
    return min(ranks) if ranks else None


def wheel_platforms(platform: str, glibc: int = GLIBC) -> list[str]:
    """Returns pip's names for a platform, the newest first.

    :param glibc: Minor version of the GNU C library 2.
    """
    system, _dash, name = platform.partition("-")
    machine = MACHINES.get(name, name)
    if system == "osx":
        return ["macosx_{0}_{1}".format(version, machine) for version in ("13_0", "12_0", "11_0", "10_15", "10_9")]
    legacy = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    names = []
    for minor in range(glibc, 4, -1):
        names.append("manylinux_2_{0}_{1}".format(minor, machine))
        names += ["{0}_{1}".format(legacy[minor], machine)] if minor in legacy else []
    return [*names, "linux_" + machine]
