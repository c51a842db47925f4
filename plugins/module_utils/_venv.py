# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Virtual environments from locked packages (private to this collection)."""

from __future__ import annotations

import os
import typing as t
from dataclasses import asdict

from ansible_collections.flotilla.dask.plugins.module_utils._digest import digest
from ansible_collections.flotilla.dask.plugins.module_utils._environments import (
    GENERATION_RECORD,
    ON_CONTROLLER,
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
    report,
    unpack,
    uv_of,
    wheels_lacking,
    workplace,
)
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._interpreters import interpreter
from ansible_collections.flotilla.dask.plugins.module_utils._locks import listed
from ansible_collections.flotilla.dask.plugins.module_utils._platform import Python
from ansible_collections.flotilla.dask.plugins.module_utils._service import run


def venv_environment(options: Options, check_mode: bool) -> Options:
    """Makes the virtual environment if it isn't complete. What it needs from the controller first, it returns.

    :raises DaskError: there is no such Python here, a package couldn't be had or wasn't the locked one, or uv refused.
    """
    path, asked = options["path"], options["requirements"] is not None
    python = interpreter(options["python"])
    packages = _chosen(options["packages"], python)
    what = [options["requirements"], options["constraints"]] if asked else _identity(packages)
    content = digest([options["python"], python.minor, what])
    if _is_complete(path, content, python):
        return UNCHANGED
    if asked and not packages:
        return {"changed": False, "needs": {"python": asdict(python), "platform": python.platform}}
    result = report(path, packages_of(options["replaces"]), listed(packages))
    if check_mode:
        return result
    with workplace(options["cache"]) as work:
        if _is_complete(path, content, python):
            return UNCHANGED
        supplies = unpack(options["supplies"], work)
        lacking = wheels_lacking(options, packages)
        needs = lacks(options, supplies, lacking, uv=True)
        if needs:
            return {"changed": False, "needs": needs}
        gather(lacking, os.path.join(options["cache"], WHEEL_CACHE), options, supplies)
        anew(path, lambda: {**_fill(options, packages, supplies), "content": content, "python": python.minor})
    return result


def _chosen(packages: list[Package] | None, python: Python) -> list[Package]:
    """Returns the packages for this interpreter. :raises DaskError: there are some, all for others."""
    chosen = [package for package in packages or [] if package["platform"] == python.key]
    if packages is not None and not chosen:
        known = sorted({package["platform"] for package in packages})
        raise DaskError(
            "The lock is refused: it has packages for {0}. Allowed: a lock with {1}, which this host has.".format(
                "; ".join(known) or "no platform", python.key
            )
        )
    return chosen


def _identity(packages: t.Sequence[Package]) -> list[list[str]]:
    return sorted([file_of(package), package["sha256"]] for package in packages)


def _is_complete(path: str, content: str, python: Python) -> bool:
    """Whether it is there, made from the same.

    A complete generation is named by its lock, and processes may run from it: for another C library, which other files
    of the same packages fit to, it stays. For another Python it is of no use any more.
    """
    record = read_record(path) or {}
    in_use = read_record(path, GENERATION_RECORD) is not None and record.get("python") == list(python.minor)
    return record.get("content") == content or in_use


def _fill(options: Options, packages: t.Sequence[Package], supplies: Supplies) -> dict[str, t.Any]:
    path, wheels = options["path"], os.path.join(options["cache"], WHEEL_CACHE)
    run([options["python"], "-I", "-m", "venv", "--without-pip", path])
    files = sorted(map(file_of, packages))
    # What a source is built with comes from the index: a lock has only what is installed.
    builds = options["download_on"] != ON_CONTROLLER and not all(file.endswith(".whl") for file in files)
    uv_of(options, supplies).install_locked(os.path.join(path, "bin", "python"), packages, wheels, index=builds)
    return {"packages": listed(packages), "files": files}
