# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Virtual environments from requirements (private to this collection)."""

from __future__ import annotations

import json
import os
import tempfile
import typing as t
from dataclasses import replace
from urllib.parse import quote

from ansible_collections.flotilla.dask.plugins.module_utils._digest import digest
from ansible_collections.flotilla.dask.plugins.module_utils._downloads import Item, fetch
from ansible_collections.flotilla.dask.plugins.module_utils._environments import (
    ON_CONTROLLER,
    UNCHANGED,
    WHEEL_CACHE,
    Options,
    Supplies,
    anew,
    packages_of,
    read_record,
    report,
    unpack,
    uv_is_missing,
    uv_of,
    workplace,
)
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._locks import listed, pypi_name
from ansible_collections.flotilla.dask.plugins.module_utils._platform import host_platform
from ansible_collections.flotilla.dask.plugins.module_utils._service import run

# What an environment's interpreter tells about its packages.
INVENTORY = """
import importlib.metadata, json
found = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
print(json.dumps([{"name": name, "version": version} for name, version in found.items()]))
"""


# What wheels have to fit to.
FACTS = """
import json, platform, sys
print(json.dumps({
    "executable": sys.executable, "version": platform.python_version(), "libc": platform.libc_ver()[1]
}))
"""


def interpreter_facts(python: str) -> dict[str, str]:
    """Returns ``executable``, ``version``, ``libc`` and ``platform`` of an interpreter.

    :raises DaskError: it can't be run.
    """
    try:
        facts: dict[str, str] = json.loads(run([python, "-c", FACTS]))
    except DaskError as error:
        raise DaskError(
            "{0!r} is refused as a Python for environments: {1}. Allowed: one that every host has, e.g. python3; the "
            "variable is dask_environment_python.".format(python, error)
        ) from error
    return {**facts, "platform": host_platform()}


def venv_environment(options: Options, check_mode: bool, with_diff: bool) -> Options:
    """Makes the virtual environment if it isn't complete. What it needs from the controller first, it returns.

    :param with_diff: Whether a run in check mode shall find out which packages there would be.
    :raises DaskError: there is no such Python here, or uv refused.
    """
    path = options["path"]
    content = digest([options["python"], options["requirements"], options["constraints"]])
    if _is_complete(path, content):
        return UNCHANGED
    python = interpreter_facts(options["python"])
    before = packages_of(options["replaces"])
    if check_mode and not with_diff:
        return report(path, before, before)
    resolved: list[dict[str, str]] | None = options["resolved"]
    if check_mode and resolved is not None:
        return report(path, before, _listed(resolved))
    if not options["supplied"]:
        wheels = options["download_on"] == ON_CONTROLLER
        needs = {"uv": uv_is_missing(options), "wheels": wheels, "have": _wheels(options), "python": python}
        return {"changed": False, "needs": needs}
    if check_mode:
        return report(path, before, _listed(_foreseen(options, python["executable"])))
    with workplace(options["cache"]) as work:
        if _is_complete(path, content):
            return UNCHANGED
        supplies = unpack(options["supplies"], work)
        record = anew(path, lambda: _fill(options, supplies, content))
    return report(path, before, record["packages"])


def _is_complete(path: str, content: str) -> bool:
    record = read_record(path)
    return bool(record) and t.cast("t.Dict[str, t.Any]", record)["content"] == content


def _wheels(options: Options) -> list[str]:
    try:
        return sorted(os.listdir(os.path.join(options["cache"], WHEEL_CACHE)))
    except FileNotFoundError:
        return []


def _listed(packages: t.Sequence[t.Mapping[str, str]]) -> list[str]:
    """``listed``, with names as an index writes them: packages and indexes write them differently."""
    return listed([{**each, "name": pypi_name(each["name"])} for each in packages])


def _constraints(options: Options, directory: str) -> str:
    path = os.path.join(directory, "constraints.txt")
    with open(path, "w", encoding="utf-8") as file:
        file.write(options["constraints"] + "\n")
    return path


def _foreseen(options: Options, python: str) -> list[dict[str, str]]:
    """Returns what uv would install, without leaving a trace."""
    with tempfile.TemporaryDirectory(prefix="flotilla-") as work:
        uv = uv_of(options, unpack(options["supplies"], work), keep=False)
        return uv.resolve(python, "--constraint=" + _constraints(options, work), *options["requirements"])


def _fill(options: Options, supplies: Supplies, content: str) -> dict[str, t.Any]:
    path = options["path"]
    run([options["python"], "-m", "venv", "--without-pip", path])
    python, uv = os.path.join(path, "bin", "python"), uv_of(options, supplies)
    if options["resolved"] is None:
        uv.install(python, "--constraint=" + _constraints(options, path), *options["requirements"])
    else:
        wheels = os.path.join(options["cache"], WHEEL_CACHE)
        items = [Item.of_wheel(each) for each in options["resolved"]]
        sent = [replace(item, url="file://" + quote(supplies.path(item.file))) for item in items]
        fetch([item for item in sent if supplies.path(item.file)], wheels)
        for item in items:
            item.refuse_other(os.path.join(wheels, item.file))
        uv.install(python, "--no-deps", *[os.path.join(wheels, item.file) for item in items], index=False)
    packages = _listed(json.loads(run([python, "-c", INVENTORY])))
    files = [each["file"] for each in options["resolved"] or []]
    return {"content": content, "packages": packages, "files": sorted(files)}
