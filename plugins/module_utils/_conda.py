# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Conda prefixes from locked packages, and the way to py-rattler (private to this collection)."""

from __future__ import annotations

import json
import os
import subprocess
import typing as t

from ansible_collections.flotilla.dask.plugins.module_utils import _rattler_side
from ansible_collections.flotilla.dask.plugins.module_utils._bytecode import compile_all
from ansible_collections.flotilla.dask.plugins.module_utils._digest import digest
from ansible_collections.flotilla.dask.plugins.module_utils._downloads import DownloadError
from ansible_collections.flotilla.dask.plugins.module_utils._environments import (
    BYTECODE_CACHE,
    CONDA_CACHE,
    UNCHANGED,
    WHEEL_CACHE,
    Options,
    Package,
    Supplies,
    anew,
    file_of,
    gather,
    lacks,
    packages_of,
    read_record,
    remove,
    report,
    site_packages,
    unpack,
    uv_of,
    wheels_lacking,
    workplace,
)
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._locks import RATTLER, listed
from ansible_collections.flotilla.dask.plugins.module_utils._platform import host_platform
from ansible_collections.flotilla.dask.plugins.module_utils._service import module_text


class RattlerError(DaskError):
    """py-rattler refused; ``kind`` is the name of its own error."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class CacheError(DaskError):
    """Packages that seemed to be in the cache are not whole there; ``files`` are their names."""

    def __init__(self, files: t.Sequence[str]) -> None:
        super().__init__("The package cache lacks {0}.".format(", ".join(files)))
        self.files = files


def ask_rattler(interpreter: str, task: str, ca_bundle: str = "", **values: t.Any) -> dict[str, t.Any]:
    """Has a task of ``_rattler_side`` done.

    :param interpreter: A Python that has py-rattler.
    :raises RattlerError: what rattler refused, in its words.
    :raises DaskError: the interpreter isn't there, or has no py-rattler.
    """
    try:
        done = subprocess.run(
            [interpreter, "-c", module_text(_rattler_side)],
            input=json.dumps({"task": task, **values}),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **({"SSL_CERT_FILE": ca_bundle} if ca_bundle else {})},
        )
    except OSError as error:
        raise DaskError("{0} cannot be run: {1}".format(interpreter, error)) from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["exit status {0}".format(done.returncode)]
        if "rattler" in said[-1] and "Error: " in said[-1]:
            raise DaskError(
                "{0} has no py-rattler that the collection can use ({1}); it solves and installs conda environments. "
                "Install it with '{0} -m pip install {2}'.".format(interpreter, said[-1], RATTLER)
            )
        raise DaskError("py-rattler, run by {0}, failed: {1}".format(interpreter, " / ".join(said[-5:])))
    answer: dict[str, t.Any] = json.loads(done.stdout)
    if "error" in answer:
        raise RattlerError(answer["kind"], " ".join(answer["error"].split("\n")).strip())
    return answer


def conda_environment(options: Options, check_mode: bool) -> Options:
    """Makes the prefix if it isn't complete. What it needs from the controller first, it returns as ``needs``.

    :raises DaskError: a package couldn't be had or wasn't the locked one, or the prefix is something else.
    """
    path, platform = options["path"], host_platform()
    packages: list[Package] = [package for package in options["packages"] if package["platform"] == platform]
    if not packages:
        known = sorted({package["platform"] for package in options["packages"]})
        raise DaskError(
            "The lock is refused: it has packages for {0}. Allowed: a lock with {1}, this host's platform.".format(
                ", ".join(known) or "no platform", platform
            )
        )
    content = digest(sorted([package["manager"], file_of(package), package["sha256"]] for package in packages))
    if _is_complete(path, content):
        return UNCHANGED
    result = report(path, packages_of(options["replaces"]), listed(packages))
    if check_mode:
        return result
    with workplace(options["cache"]) as work:
        if _is_complete(path, content):
            return UNCHANGED
        supplies = unpack(options["supplies"], work)
        wanted = _missing(options, packages)
        while True:
            needs = lacks(options, supplies, wanted, uv=any(package["manager"] == "pip" for package in packages))
            if needs:
                return {"changed": False, "needs": needs}
            files = _gather(options, wanted, supplies, work)
            try:
                anew(path, lambda files=files: _fill(options, packages, files, supplies, content))  # type: ignore[misc]
                break
            except CacheError as error:
                wanted += [package for package in packages if file_of(package) in error.files]
    return result


def _is_complete(path: str, content: str) -> bool:
    record = read_record(path)
    if record and record["content"] != content:
        raise DaskError(
            "{0} is refused: it is complete, and made from another lock. Allowed: a directory of its own for each "
            "lock; remove this one if nothing uses it.".format(path)
        )
    return bool(record)


def _missing(options: Options, packages: t.Sequence[Package]) -> list[Package]:
    """Returns the packages that this host surely doesn't have in its caches; rattler finds out about the others."""
    cache = os.path.join(options["cache"], CONDA_CACHE)
    lacking = [each for each in packages if each["manager"] == "conda" and not _is_unpacked(cache, each)]
    return lacking + wheels_lacking(options, [each for each in packages if each["manager"] == "pip"])


def _is_unpacked(cache: str, package: Package) -> bool:
    return os.path.exists(os.path.join(cache, _rattler_side.stem(file_of(package)), "info", "index.json"))


def _gather(options: Options, wanted: t.Sequence[Package], supplies: Supplies, work: str) -> dict[str, str]:
    """Returns the verified files of the conda packages that the cache lacks; wheels go to their cache and stay."""
    directories = {"conda": work, "pip": os.path.join(options["cache"], WHEEL_CACHE)}
    for manager, directory in directories.items():
        gather([package for package in wanted if package["manager"] == manager], directory, options, supplies)
    return {file_of(each): os.path.join(work, file_of(each)) for each in wanted if each["manager"] == "conda"}


def _fill(
    options: Options, packages: t.Sequence[Package], files: dict[str, str], supplies: Supplies, content: str
) -> dict[str, t.Any]:
    cache, prefix = os.path.join(options["cache"], CONDA_CACHE), options["path"]
    conda = [{**package, "file": file_of(package)} for package in packages if package["manager"] == "conda"]
    try:
        answer = ask_rattler(options["interpreter"], "install", cache=cache, prefix=prefix, packages=conda, files=files)
    except RattlerError as error:
        # The cache is all that can be wrong: what arrived was verified, and nobody else is in the prefix.
        remove(cache)
        raise DownloadError(
            "The packages could not be installed ({0}). The package cache {1} was damaged and is removed; run this "
            "again.".format(error, cache)
        ) from error
    if answer["missing"]:
        raise CacheError(answer["missing"])
    python = os.path.join(prefix, "bin", "python")
    wheels = [package for package in packages if package["manager"] == "pip"]
    if wheels:  # which compiles all of site-packages, not the wheels alone
        directory = os.path.join(options["cache"], WHEEL_CACHE)
        uv_of(options, supplies).install_locked(python, wheels, directory, index=False)
    elif os.path.exists(python):
        for directory in site_packages(prefix):
            compile_all(python, directory, os.path.join(options["cache"], BYTECODE_CACHE))
    return {"content": content, "packages": listed(packages), "files": sorted(map(file_of, packages))}
