# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an environment shall have, and what exactly: ``environment.yml`` and locks (private to this collection).

Pure Python without I/O. A lock file is conda-lock's YAML, version 1, or a list of addresses that starts with
``@EXPLICIT``.
"""

from __future__ import annotations

import functools
import re
import typing as t
from dataclasses import asdict, dataclass, field, replace
from urllib.parse import unquote, urlsplit

from ansible.module_utils.common.yaml import yaml_dump, yaml_load

from ansible_collections.flotilla.dask.plugins.module_utils._digest import digest
from ansible_collections.flotilla.dask.plugins.module_utils._downloads import file_name
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError

PLATFORMS = ("linux-64", "linux-aarch64", "linux-ppc64le", "linux-s390x", "osx-64", "osx-arm64")
MANAGERS = ("conda", "pip")
RATTLER = "py-rattler==0.28.0"
"""What solves and installs. Its interface still changes between versions; this one is tested."""
UV = "uv==0.13.9"
"""What installs Python packages."""

EXPLICIT = "@EXPLICIT"
NO_ARCHITECTURE = "noarch"
HINT = "Allowed: the YAML of conda-lock, version 1, or a list of addresses that starts with " + EXPLICIT

_ARCHIVE = re.compile(r"(?P<name>.+)-(?P<version>[^-]+)-(?P<build>[^-]+)\.(conda|tar\.bz2)")
_SPECIFICATION_KEYS = ("name", "channels", "dependencies", "platforms", "prefix")
_NAME = re.compile(r"\s*(?:[^\s\[]+::)?([A-Za-z0-9._-]+)")
_HEXADECIMAL = re.compile(r"[0-9a-f]+")
_HASHES = {"md5": 32, "sha256": 64}

# Python packages that a channel has under another name than an index of wheels.
_PYPI_NAMES = {
    "dask-core": "dask",
    "matplotlib-base": "matplotlib",
    "msgpack-python": "msgpack",
    "pytables": "tables",
    "pytorch": "torch",
}


class LockError(DaskError):
    """A lock file or an environment.yml was refused."""


@dataclass(frozen=True)
class Package:
    """One file to install. ``manager``: conda or pip. ``platform``: that of the hosts, also for what is noarch."""

    name: str
    version: str
    platform: str
    url: str
    manager: str = "conda"
    md5: str = ""
    sha256: str = ""
    dependencies: t.Mapping[str, str] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """The name of the file."""
        return file_name(self.url)

    @property
    def identity(self) -> tuple[str, str, str, str, str]:
        """What decides what is installed, wherever it is fetched from."""
        return self.platform, self.manager, self.name, self.file, self.sha256 or self.md5


@dataclass(frozen=True)
class Lock:
    """All packages of an environment. ``hashes``: platform to the digest of what the packages were solved from."""

    packages: tuple[Package, ...] = ()
    platforms: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    hashes: t.Mapping[str, str] = field(default_factory=dict)
    explicit: bool = False

    def of(self, platform: str) -> tuple[Package, ...]:
        """Returns the packages for one platform."""
        return tuple(package for package in self.packages if package.platform == platform)

    def digest(self) -> str:
        """Returns what identifies the environment, the same for any order and any place to fetch it from."""
        return digest(sorted(package.identity for package in self.packages))

    def as_dict(self) -> dict[str, t.Any]:
        """Returns what the launch plan takes, which has no use for dependencies."""
        packages = [
            {key: value for key, value in asdict(each).items() if key != "dependencies"} for each in self.packages
        ]
        return {"digest": self.digest(), "platforms": list(self.platforms), "packages": packages}


@dataclass(frozen=True)
class Specification:
    """An environment as its ``environment.yml`` asks for it. ``conda``, ``pip``: requirements of each."""

    channels: tuple[str, ...]
    conda: tuple[str, ...]
    pip: tuple[str, ...] = ()

    def along_with(self, requirements: t.Iterable[str]) -> Specification:
        """Returns what also asks conda for those requirements whose packages nothing was said about."""
        missing = [each for each in requirements if not has_package(self.conda + self.pip, each)]
        return replace(self, conda=(*self.conda, *missing))

    def hash_for(self, platform: str) -> str:
        """Returns what changes exactly when the meaning does, whatever the order of the requirements."""
        conda, pip = (sorted(" ".join(each.split()) for each in part) for part in (self.conda, self.pip))
        return digest([list(self.channels), conda, pip, platform])


def parse_specification(text: str, name: str) -> Specification:
    """Reads an ``environment.yml``.

    :param name: What the file is called in a refusal.
    :raises LockError: it isn't one, or has something that a lock can't be made from.
    """
    content = _load(text, name, "an environment.yml with channels and dependencies")
    unknown = sorted(set(map(str, content)) - set(_SPECIFICATION_KEYS))
    if unknown:
        raise LockError(
            "{0}: {1!r} is refused. Allowed: the keys {2}.".format(name, unknown[0], ", ".join(_SPECIFICATION_KEYS))
        )
    conda: list[str] = []
    pip: list[str] = []
    for entry in _list(content.get("dependencies"), name, "dependencies"):
        if isinstance(entry, t.Mapping) and list(entry) == ["pip"]:
            pip += _strings(entry["pip"], name, "dependencies.pip", "requirements of pip without options")
        else:
            conda += _strings([entry], name, "dependencies", "requirements of conda, and one mapping 'pip'")
    channels = _strings(content.get("channels"), name, "channels", "names, addresses or directories of conda channels")
    channels = [channel for channel in channels if channel != "nodefaults"]
    for key, value in (("channels", channels), ("dependencies", conda)):
        if not value:
            raise LockError("{0}: {1} is refused, as it is empty. Allowed: at least one.".format(name, key))
    return Specification(tuple(channels), tuple(conda), tuple(pip))


def parse_lock(text: str, name: str) -> Lock:
    """Reads a lock file of either kind.

    :param name: What the file is called in a refusal.
    :raises LockError: it is neither, or says less about a package than installing needs.
    """
    if any(line.strip() == EXPLICIT for line in text.splitlines()):
        return _parse_explicit(text, name)
    content = _load(text, name, HINT[len("Allowed: ") :])
    if content.get("version") != 1 or "package" not in content:
        raise LockError("{0} is refused: it isn't a lock file. {1}.".format(name, HINT))
    metadata = content.get("metadata") or {}
    packages = []
    for entry in _list(content["package"], name, "package"):
        if not isinstance(entry, t.Mapping) or not {"name", "version", "manager", "platform", "url"} <= set(entry):
            raise LockError("{0}: the package {1!r} is refused. {2}.".format(name, entry, HINT))
        if entry.get("category", "main") != "main" or entry.get("optional"):
            continue
        hashes = entry.get("hash") or {}
        packages.append(
            _checked(
                Package(
                    name=str(entry["name"]),
                    version=str(entry["version"]),
                    platform=str(entry["platform"]),
                    url=str(entry["url"]),
                    manager=str(entry["manager"]),
                    md5=str(hashes.get("md5") or ""),
                    sha256=str(hashes.get("sha256") or ""),
                    dependencies={str(key): str(value) for key, value in (entry.get("dependencies") or {}).items()},
                ),
                name,
            )
        )
    return Lock(
        packages=_sorted(packages),
        platforms=tuple(sorted({package.platform for package in packages} | set(_platforms(metadata)))),
        channels=tuple(
            str(each.get("url", "") if isinstance(each, t.Mapping) else each) for each in metadata.get("channels") or []
        ),
        hashes={str(key): str(value) for key, value in (metadata.get("content_hash") or {}).items()},
    )


def dump_lock(lock: Lock, source: str) -> str:
    """Returns the text of a lock file, which ``parse_lock`` reads, and conda-lock as well.

    :param source: The name of the file that it was solved from.
    """
    content = {
        "version": 1,
        "metadata": {
            "content_hash": dict(lock.hashes),
            "channels": [{"url": channel, "used_env_vars": []} for channel in lock.channels],
            "platforms": list(lock.platforms),
            "sources": [source],
        },
        "package": [
            {
                "name": package.name,
                "version": package.version,
                "manager": package.manager,
                "platform": package.platform,
                "dependencies": dict(package.dependencies),
                "url": package.url,
                "hash": {kind: getattr(package, kind) for kind in _HASHES if getattr(package, kind)},
                "category": "main",
                "optional": False,
            }
            for package in _sorted(lock.packages)
        ],
    }
    head = "# What exactly {0} means, on every host. Written by flotilla.dask; keep it under version control.\n".format(
        source
    )
    return head + str(yaml_dump(content, default_flow_style=False, sort_keys=False))


def listed(packages: t.Iterable[t.Mapping[str, t.Any] | Package]) -> list[str]:
    """Returns ``name version`` of packages, sorted, as they stand in a diff."""
    plain = [asdict(each) if isinstance(each, Package) else each for each in packages]
    return sorted("{0} {1}".format(each["name"], each["version"]) for each in plain)


def difference(before: t.Sequence[str], after: t.Sequence[str]) -> dict[str, list[str]]:
    """Returns which packages were ``added``, ``removed`` and ``changed``, of two lists that ``listed`` returned."""
    old, new = (dict(line.split(" ", 1) for line in lines) for lines in (before, after))
    return {
        "added": ["{0} {1}".format(name, new[name]) for name in sorted(set(new) - set(old))],
        "removed": ["{0} {1}".format(name, old[name]) for name in sorted(set(old) - set(new))],
        "changed": [
            "{0} {1} -> {2}".format(name, old[name], new[name])
            for name in sorted(set(old) & set(new))
            if old[name] != new[name]
        ],
    }


def diff(header: str, before: t.Sequence[str], after: t.Sequence[str]) -> dict[str, str]:
    """Returns the two lists in the shape of Ansible's diff mode."""
    texts = ["".join(line + "\n" for line in lines) for lines in (before, after)]
    return {"before_header": header, "after_header": header, "before": texts[0], "after": texts[1]}


def channel_path(url: str) -> str:
    """Returns where a package is below a mirror: ``channel/subdir/file``."""
    parts = urlsplit(url)
    words = [word for word in unquote(parts.path).split("/") if word]
    if parts.scheme == "file":
        words = words[-3:]
    return "/".join(words)


@functools.lru_cache(maxsize=4096)  # asked for every package of every host
def pypi_name(name: str) -> str:
    """Returns the name of a Python package as pip compares it."""
    return re.sub(r"[-_.]+", "-", _PYPI_NAMES.get(name, name)).lower()


def requirement_name(requirement: str) -> str:
    """Returns the name of the package that a requirement, of pip or of conda, is about."""
    match = _NAME.match(requirement)
    return match[1] if match else requirement


def has_package(requirements: tuple[str, ...], name: str) -> bool:
    """Whether one of the requirements, of pip or of conda, is about a Python package."""
    return pypi_name(name) in map(pypi_name, map(requirement_name, requirements))


def _parse_explicit(text: str, name: str) -> Lock:
    packages: list[tuple[str, str, str]] = []
    platforms = set(re.findall(r"^# platform: *(\S+)", text, re.MULTILINE))
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#") or line == EXPLICIT:
            continue
        url, _hash, fragment = line.partition("#")
        words = url.split("/")
        if len(words) < 3 or not _ARCHIVE.fullmatch(words[-1]):
            raise LockError("{0}: {1!r} is refused. Allowed: the address of a conda package.".format(name, line))
        if words[-2] != NO_ARCHITECTURE:
            platforms.add(words[-2])
        packages.append((url, words[-1], fragment))
    if len(platforms) != 1:
        raise LockError(
            "{0} is refused: its packages are for {1} platforms. Allowed: one, which '# platform: linux-64' can "
            "name.".format(name, len(platforms))
        )
    (platform,) = platforms
    found = []
    for url, file, fragment in packages:
        match = t.cast("re.Match[str]", _ARCHIVE.fullmatch(unquote(file)))
        kind, _colon, value = fragment.rpartition(":")
        hashes = {kind or ("md5" if len(value) == _HASHES["md5"] else "sha256"): value}
        package = Package(
            name=match["name"],
            version=match["version"],
            platform=platform,
            url=url,
            md5=hashes.get("md5", ""),
            sha256=hashes.get("sha256", ""),
        )
        found.append(_checked(package, name))
    return Lock(packages=_sorted(found), platforms=(platform,), explicit=True)


def _checked(package: Package, name: str) -> Package:
    """:raises LockError: the package could not be installed and verified."""
    where = "{0}: package {1} {2}".format(name, package.name, package.version)
    if package.manager not in MANAGERS:
        raise LockError("{0}: manager {1!r} is refused. Allowed: conda, pip.".format(where, package.manager))
    hashes = {kind: getattr(package, kind) for kind in _HASHES if getattr(package, kind)}
    good = [_HEXADECIMAL.fullmatch(value) and len(value) == _HASHES[kind] for kind, value in hashes.items()]
    if not good or not all(good):
        raise LockError(
            "{0} is refused: it has no hash that its file can be verified by. Allowed: an md5 or a sha256 for every "
            "package.".format(where)
        )
    if package.manager == "conda" and not _ARCHIVE.fullmatch(package.file):
        raise LockError("{0}: {1!r} is refused. Allowed: a .conda or .tar.bz2 file.".format(where, package.url))
    return package


def _sorted(packages: t.Iterable[Package]) -> tuple[Package, ...]:
    return tuple(sorted(packages, key=lambda package: (package.platform, package.manager, package.name, package.url)))


def _platforms(metadata: t.Mapping[str, t.Any]) -> list[str]:
    return [str(platform) for platform in metadata.get("platforms") or []]


def _load(text: str, name: str, allowed: str) -> dict[str, t.Any]:
    try:
        content = yaml_load(text)
    except Exception as error:  # of a library that may not be there to name its errors
        words = " ".join(str(error).split())
        raise LockError("{0} is refused: it isn't YAML ({1}).".format(name, words)) from error
    if not isinstance(content, dict):
        raise LockError("{0} is refused. Allowed: {1}.".format(name, allowed))
    return content


def _list(value: t.Any, name: str, key: str) -> list[t.Any]:
    if value is None:
        return []
    if isinstance(value, list):
        return value
    raise LockError("{0}: {1}: {2!r} is refused. Allowed: a list.".format(name, key, value))


def _strings(value: t.Any, name: str, key: str, allowed: str) -> list[str]:
    values = _list(value, name, key)
    for each in values:
        if not isinstance(each, str) or not each.strip() or each.startswith("-"):
            raise LockError("{0}: {1}: {2!r} is refused. Allowed: {3}.".format(name, key, each, allowed))
    return [each.strip() for each in values]
