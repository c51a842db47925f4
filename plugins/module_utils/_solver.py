# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes lock files on the controller: conda packages by py-rattler, then wheels by uv (private to this collection)."""

from __future__ import annotations

import os
import sys
import typing as t
from dataclasses import replace
from urllib.parse import quote

from ansible_collections.flotilla.dask.plugins.module_utils._conda import RattlerError, ask_rattler
from ansible_collections.flotilla.dask.plugins.module_utils._downloads import cache_directory, refuse_missing_bundle
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._locks import (
    EXPLICIT,
    PLATFORMS,
    Lock,
    LockError,
    Package,
    Specification,
    diff,
    difference,
    dump_lock,
    listed,
    parse_lock,
    parse_specification,
    pypi_name,
)
from ansible_collections.flotilla.dask.plugins.module_utils._platform import Python
from ansible_collections.flotilla.dask.plugins.module_utils._pylock import choose
from ansible_collections.flotilla.dask.plugins.module_utils._uv_solver import (
    Solver,
    absolute_lock,
    read_on_controller,
    write_on_controller,
)


def conda_lock(options: t.Mapping[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Reads the lock, solves what it lacks, and writes it.

    :raises DaskError: a file was refused, or the requirements cannot be met.
    """
    path, file = absolute_lock(options["path"]), options["file"]
    for platform in options["platforms"]:
        if platform not in PLATFORMS:
            raise DaskError("platforms: {0!r} is refused. Allowed: {1}.".format(platform, ", ".join(PLATFORMS)))
    refuse_missing_bundle(options["ca_bundle"])
    text = read_on_controller(path)
    before = parse_lock(text, path) if text is not None else Lock()
    if not file:
        if text is None:
            raise DaskError(
                "dask_environment_lock: {0!r} is refused: there is no such file on the controller, and no "
                "dask_environment_file to make it from.".format(path)
            )
        return _result(path, before, before)
    if before.explicit:
        raise LockError(
            "{0} is refused: a lock of the kind {1} doesn't say what it was made from. Leave dask_environment_file "
            "unset to install from it, or name another dask_environment_lock.".format(path, EXPLICIT)
        )
    wanted = read_on_controller(file)
    if wanted is None:
        raise DaskError("dask_environment_file: {0!r} is refused: no such file on the controller.".format(file))
    specification = parse_specification(wanted, file).along_with(options["also"])
    after = _solved(specification, before, options)
    if after != before and not check_mode:
        write_on_controller(path, dump_lock(after, os.path.basename(file)))
    return _result(path, before, after)


def _result(path: str, before: Lock, after: Lock) -> dict[str, t.Any]:
    shown = sorted({*before.platforms, *after.platforms})
    lists = {platform: (listed(before.of(platform)), listed(after.of(platform))) for platform in shown}
    return {
        "changed": after != before,
        "lock": after.as_dict(),
        "packages": {platform: difference(*pair) for platform, pair in lists.items()},
        "diff": [
            diff("{0} ({1})".format(path, platform), *pair) for platform, pair in lists.items() if pair[0] != pair[1]
        ],
    }


def _solved(specification: Specification, before: Lock, options: t.Mapping[str, t.Any]) -> Lock:
    """Returns the lock with every platform solved that has to be; the others stay as they are."""
    platforms = sorted({*before.platforms, *options["platforms"]})
    hashes = {platform: specification.hash_for(platform) for platform in platforms}
    stale = [each for each in platforms if options["update"] or before.hashes.get(each) != hashes[each]]
    if not stale:
        return before
    packages = [package for package in before.packages if package.platform not in stale]
    for platform in stale:
        preferred = () if options["update"] else before.of(platform)
        packages += solve(specification, platform, preferred, options)
    packages.sort(key=lambda package: (package.platform, package.manager, package.name, package.url))
    return Lock(tuple(packages), tuple(platforms), specification.channels, hashes)


def solve(
    specification: Specification, platform: str, preferred: t.Sequence[Package], options: t.Mapping[str, t.Any]
) -> list[Package]:
    """Returns the packages that meet the requirements on a platform.

    :param preferred: Packages to stay with where that is possible.
    :raises DaskError: there are none, or a channel isn't reachable.
    """
    directory = os.path.dirname(os.path.abspath(options["file"]))
    try:
        answer = ask_rattler(
            sys.executable,
            "solve",
            ca_bundle=options["ca_bundle"],
            cache=os.path.join(cache_directory(options["cache"]), "repodata"),
            channels=[_channel(channel, directory) for channel in specification.channels],
            requirements=list(specification.conda),
            platform=platform,
            preferred=[_plain(package) for package in preferred if package.manager == "conda"],
        )
    except RattlerError as error:
        raise _in_words(error, options["file"], platform, specification) from error
    packages = [
        Package(platform=platform, **{str(key): value for key, value in found.items()}) for found in answer["packages"]
    ]
    return packages + (_wheels(specification, platform, packages, options) if specification.pip else [])


def _plain(package: Package) -> dict[str, str]:
    return {"file": package.file, "url": package.url, "md5": package.md5, "sha256": package.sha256}


def _channel(channel: str, directory: str) -> str:
    """A channel's address; a directory is meant from where the file is."""
    if channel.startswith(("/", "./", "../")):
        return "file://" + quote(os.path.normpath(os.path.join(directory, channel)))
    return channel


def _in_words(error: RattlerError, file: str, platform: str, specification: Specification) -> DaskError:
    if error.kind == "SolverError":
        return DaskError(
            "{0} cannot be solved for {1}. {2} Change its dependencies, or add a channel to {3}.".format(
                file, platform, error, ", ".join(specification.channels)
            )
        )
    if error.kind == "GatewayError":
        return DaskError(
            "{0}: a channel cannot be read for {1}: {2}. Its channels are {3}. Where a proxy signs HTTPS anew, name "
            "its authority in dask_ca_bundle.".format(file, platform, error, ", ".join(specification.channels))
        )
    return DaskError("{0} is refused: {1}.".format(file, error))


def _wheels(
    specification: Specification, platform: str, conda: t.Sequence[Package], options: t.Mapping[str, t.Any]
) -> list[Package]:
    """Returns the wheels of the pip part, without what conda provides.

    :raises DaskError: uv found none that fit to each other and to conda's packages.
    """
    python = next((package.version for package in conda if package.name == "python"), "")
    if not python:
        raise DaskError("{0}: a part 'pip' is refused without python among the dependencies.".format(options["file"]))
    provided = {pypi_name(each.name): each.version for each in conda if "python" in each.dependencies}
    constraints = "\n".join("{0}=={1}".format(*item) for item in provided.items())
    solver = Solver(cache_directory(options["cache"]), options["ca_bundle"], options["wheelhouse"])
    try:
        lock = solver.solve(specification.pip, constraints, python)
    except DaskError as error:
        raise DaskError(
            "{0}: the part 'pip' cannot be solved for {1}, beside the conda packages: {2}".format(
                options["file"], platform, error
            )
        ) from error
    found = choose(lock, options["file"], Python(python, platform))
    return [replace(wheel, platform=platform) for wheel in found if pypi_name(wheel.name) not in provided]
