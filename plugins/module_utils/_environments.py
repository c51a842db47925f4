# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Software environments on a host: made once, complete or nothing, never changed (private to this collection).

A prefix has a record, which is written last: a directory without one was interrupted, and is made anew. Who makes one
holds a lock, so that a run whose controller was lost, and the next one, don't meet.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import tarfile
import tempfile
import typing as t
from dataclasses import dataclass, replace
from urllib.parse import quote

from ansible_collections.flotilla.dask.plugins.module_utils._bytecode import compile_all
from ansible_collections.flotilla.dask.plugins.module_utils._downloads import Item, configured_index, fetch, file_name
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._exclusive import LONGEST, exclusive
from ansible_collections.flotilla.dask.plugins.module_utils._files import (
    directory_status,
    make_directory,
    read_text,
    write_text,
)
from ansible_collections.flotilla.dask.plugins.module_utils._locks import channel_path, diff, difference
from ansible_collections.flotilla.dask.plugins.module_utils._platform import host_platform
from ansible_collections.flotilla.dask.plugins.module_utils._service import run

PREFIX_RECORD = "packages.json"
"""In a prefix: what it was made from and which packages are in it."""

GENERATION_RECORD = "environment.json"
"""In a generation: that it is complete, with its plugins."""

ON_CONTROLLER = "controller"
CONDA_CACHE = "conda"
WHEEL_CACHE = "wheels"
UV_CACHE = "uv"
BYTECODE_CACHE = "bytecode"
"""Directories in a cache: conda packages unpacked, wheels by their names, what uv keeps, and what Python compiled."""

KEPT_FOR_UV = (
    *("UV_DEFAULT_INDEX", "UV_INDEX", "UV_KEYRING_PROVIDER", "UV_INSECURE_HOST", "UV_NATIVE_TLS", "UV_OFFLINE"),
    *("UV_HTTP_TIMEOUT", "UV_HTTP_RETRIES", "UV_CONCURRENT_DOWNLOADS", "UV_CONCURRENT_BUILDS"),
)
_NOTE = "uv_cache.json"

Package = t.Dict[str, str]
Options = t.Dict[str, t.Any]


@dataclass(frozen=True)
class Supplies:
    """What the controller sent: files in a directory, by their names."""

    directory: str

    def path(self, file: str) -> str:
        """Returns where a file is, or an empty string if it wasn't sent."""
        path = os.path.join(self.directory, file) if self.directory and file else ""
        return path if path and os.path.exists(path) else ""


def read_record(directory: str, name: str = PREFIX_RECORD) -> dict[str, t.Any] | None:
    """Returns the record of a complete directory, or None."""
    try:
        found = json.loads(read_text(os.path.join(directory, name)) or "null")
    except (ValueError, RecursionError, DaskError):  # also where it is not text
        return None
    return found if isinstance(found, dict) and "content" in found else None


def file_of(package: Package) -> str:
    """Returns the name of a package's file."""
    return file_name(package["url"])


def item_of(package: Package, mirror: str = "", wheelhouse: str = "") -> Item:
    """Returns where to fetch a package: where the lock says, or in the mirror or the wheelhouse if there is one."""
    url = package["url"]
    place, path = (mirror, channel_path(url)) if package["manager"] == "conda" else (wheelhouse, file_of(package))
    if place:
        base = place.rstrip("/") if "://" in place else "file://" + quote(place.rstrip("/"))
        url = "{0}/{1}".format(base, quote(path))
    return Item(file=file_of(package), url=url, md5=package["md5"], sha256=package["sha256"])


def gather(packages: t.Sequence[Package], directory: str, options: Options, supplies: Supplies) -> None:
    """Makes every package a verified file in a directory: as the controller sent it, or fetched.

    :raises DownloadError: one couldn't be had, or is another than the locked one.
    """
    items = []
    for package in packages:
        item = item_of(package, options.get("mirror") or "", options["wheelhouse"])
        sent = supplies.path(item.file)
        items.append(replace(item, url="file://" + quote(sent)) if sent else item)
    fetch(items, directory, supplies.path(options["ca_bundle"]))


def wheels_lacking(options: Options, packages: t.Sequence[Package]) -> list[Package]:
    """Returns the Python packages whose files, or other ones of that name, the cache doesn't have."""
    directory = os.path.join(options["cache"], WHEEL_CACHE)
    return [each for each in packages if not item_of(each).is_at(os.path.join(directory, file_of(each)))]


def lacks(options: Options, supplies: Supplies, packages: t.Sequence[Package], uv: bool) -> dict[str, t.Any]:
    """Returns what only the controller can give and has not sent; nothing where all is here.

    :param packages: Those that have to be fetched. ``uv``: whether it installs something, and may fetch for that.
    """
    files = [file_of(each) for each in packages] if options["download_on"] == ON_CONTROLLER else []
    trusted = [options["ca_bundle"]] if options["ca_bundle"] and (packages or uv) else []
    wanted = [*files, *trusted, *([options["uv"]] if uv and uv_is_missing(options) else [])]
    lacking = [file for file in wanted if not supplies.path(file)]
    return {"files": lacking, "platform": host_platform()} if lacking else {}


def write_record(directory: str, content: t.Mapping[str, t.Any], name: str = PREFIX_RECORD) -> None:
    write_text(os.path.join(directory, name), json.dumps(content, indent=2, sort_keys=True) + "\n")


def packages_of(directory: str) -> list[str]:
    """Returns ``name version`` of all packages of an environment, sorted; nothing where there is none."""
    record = read_record(directory) if directory else None
    return list(record["packages"]) if record else []


@contextlib.contextmanager
def workplace(cache: str) -> t.Iterator[str]:
    """A directory to work in, in a cache that is nobody else's meanwhile; what an interrupted run left there goes.

    :raises DaskError: the cache is reached over a link, or belongs to another account, which could change it meanwhile.
    """
    os.umask(0o022)
    found = directory_status(cache)
    if found is None:
        make_directory(cache)
    elif found.st_uid != os.geteuid():
        raise DaskError(
            "{0} is refused: it belongs to account number {1}, and this acts as number {2}. Remove it, or name another "
            "directory.".format(cache, found.st_uid, os.geteuid())
        )
    directory = os.path.join(cache, "work")
    with exclusive(os.path.join(cache, ".lock"), LONGEST, "Cache {0}".format(cache)):
        remove(directory)
        os.mkdir(directory)
        try:
            yield directory
        finally:
            remove(directory)


def unpack(archive: str, directory: str) -> Supplies:
    """Unpacks what the controller sent, if it sent something. The files belong to who runs this."""
    if not archive:
        return Supplies("")
    with tarfile.open(archive) as tar:
        # From here on it is gone, also when this is killed. In check mode and on several rounds each has its own.
        os.unlink(archive)
        for member in filter(tarfile.TarInfo.isreg, tar.getmembers()):
            member.name = os.path.basename(member.name)
            member.uid, member.gid, member.uname, member.gname = os.geteuid(), os.getegid(), "", ""
            tar.extract(member, directory)
    return Supplies(directory)


def remove(path: str) -> None:
    """Removes a directory, a file or a link, if there is one."""
    if os.path.islink(path) or os.path.isfile(path):
        os.unlink(path)
    elif os.path.lexists(path):
        shutil.rmtree(path)


def anew(directory: str, fill: t.Callable[[], t.Mapping[str, t.Any]]) -> dict[str, t.Any]:
    """Makes a prefix: removes what an interrupted run left, has it filled, and writes down last what that returns."""
    remove(directory)
    os.makedirs(directory)
    record = dict(fill())
    write_record(directory, record)
    return record


def report(path: str, before: t.Sequence[str], after: t.Sequence[str]) -> dict[str, t.Any]:
    """Returns the result of a module that makes a prefix, or would."""
    return {"changed": True, "packages": difference(before, after), "diff": diff(path, before, after)}


UNCHANGED: Options = {"changed": False, "packages": difference([], []), "diff": {"before": "", "after": ""}}


@dataclass(frozen=True)
class Uv:
    """uv, which installs packages for any interpreter, whether or not that has a pip.

    ``program``: its path. ``cache``: a directory on the file system of the environments, whose files are links to those
    of the cache. ``wheelhouse``: directory or address of the wheels to take instead of an index. ``ca_bundle``: file
    with the authorities that are trusted instead of the system's.
    """

    program: str
    cache: str
    wheelhouse: str = ""
    ca_bundle: str = ""

    def install(self, interpreter: str, *words: str, index: bool = True, path: str = "") -> None:
        """Installs packages.

        :param index: Whether anything may be fetched.
        :param path: Directory of packages that those which are built can import.
        :raises DaskError: uv refused; the message has what it said.
        """
        source = uv_source(self.wheelhouse) if index else ["--no-index", "--offline"]
        self._made_temporary()
        command = [self.program, "pip", "install", "--quiet", "--python", interpreter]
        variables = {**self._environment(), **({"PYTHONPATH": path} if path else {})}
        target = words[words.index("--target") + 1] if "--target" in words else _prefix(interpreter)
        try:
            run([*command, *source, *words], environment=variables, lines=None)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(target, ".lock"))  # which everybody could hold
        for directory in [target] if "--target" in words else site_packages(target):
            for found in glob.glob(os.path.join(glob.escape(directory), "*.dist-info", _NOTE)):
                _forget(found)
            compile_all(interpreter, directory, os.path.join(os.path.dirname(self.cache), BYTECODE_CACHE))

    def install_locked(self, interpreter: str, packages: t.Sequence[Package], directory: str, index: bool) -> None:
        """Installs exactly those packages whose files are in a directory.

        :param index: Whether what a source is built with may be fetched.
        """
        lines = ["{name}=={version} --hash=sha256:{sha256}\n".format_map(package) for package in packages]
        with tempfile.NamedTemporaryFile("w", dir=self._made_temporary(), suffix=".txt", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            words = ("--no-deps", "--require-hashes", "--find-links", directory, "--requirement", file.name)
            self.install(interpreter, *words, index=index)

    def prune(self) -> None:
        """Removes from the cache what nothing can use any more."""
        run([self.program, "cache", "prune", "--quiet"], environment=self._environment())

    def _made_temporary(self) -> str:
        for directory in (self.cache, self._temporary):
            os.makedirs(directory, mode=0o700, exist_ok=True)  # uv has locks in them that everybody could hold
        return self._temporary

    @property
    def _temporary(self) -> str:
        return os.path.join(self.cache, "tmp")

    def _environment(self) -> dict[str, str]:
        return {**uv_environment(self.cache, self.ca_bundle), "TMPDIR": self._temporary}


def uv_source(wheelhouse: str) -> list[str]:
    """Returns the words that make uv take packages from a wheelhouse instead of an index; none where there is none."""
    return ["--no-index", "--find-links=" + wheelhouse] if wheelhouse else []


def uv_environment(cache: str, ca_bundle: str) -> dict[str, str]:
    """Returns the environment that uv runs in: what a user has set about the index and how it is reached, no more.

    With anything else the same lock would not mean the same everywhere.

    :param cache: Its directory, empty for its own. ``ca_bundle``: file of authorities, empty for the system's.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UV_") or name in KEPT_FOR_UV}
    own = {"NO_COLOR": "1", "UV_NO_CONFIG": "1", "UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never"}
    index = kept.get("UV_DEFAULT_INDEX") or configured_index()
    said = {"UV_DEFAULT_INDEX": index, "UV_CACHE_DIR": cache, "SSL_CERT_FILE": ca_bundle}
    return {**kept, **own, "UV_SYSTEM_CERTS": "1", **{name: value for name, value in said.items() if value}}


def _forget(note: str) -> None:
    """Removes what uv notes about a file that it installed from: with its time no environment would be like another."""
    record = os.path.join(os.path.dirname(note), "RECORD")
    text = read_text(record)
    if text is not None:
        write_text(record, "".join(line for line in text.splitlines(True) if "/{0},".format(_NOTE) not in line))
    os.unlink(note)


def site_packages(prefix: str) -> list[str]:
    """Returns the directories that packages of an environment are in."""
    return glob.glob(os.path.join(glob.escape(prefix), "lib", "python*", "site-packages"))


def _prefix(interpreter: str) -> str:
    return os.path.dirname(os.path.dirname(interpreter))


def uv_is_missing(options: Options) -> bool:
    """Whether the controller has to send uv. It is kept in the cache, under a name with its version."""
    return not os.path.exists(os.path.join(options["cache"], options["uv"]))


def uv_of(options: Options, supplies: Supplies) -> Uv:
    """Returns the uv that the controller sent now, or before."""
    program = os.path.join(options["cache"], options["uv"])
    sent = supplies.path(options["uv"])
    if sent:
        os.chmod(sent, 0o755)
        os.replace(sent, program)
    return Uv(
        program,
        cache=os.path.join(options["cache"], UV_CACHE),
        wheelhouse=options["wheelhouse"],
        ca_bundle=supplies.path(options["ca_bundle"]),
    )


def shared_arguments() -> dict[str, t.Any]:
    """Returns the arguments that all modules which install software have."""
    return {
        "path": {"type": "path", "required": True},
        "cache": {"type": "path", "required": True},
        "download_on": {"type": "str", "choices": ["host", ON_CONTROLLER], "default": "host"},
        "wheelhouse": {"type": "str", "default": ""},
        "ca_bundle": {"type": "str", "default": ""},
        "controller_cache": {"type": "str", "default": ""},
        "uv": {"type": "str", "default": ""},
        "supplies": {"type": "path", "default": ""},
    }
