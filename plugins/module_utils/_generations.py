# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Generations of an environment: completed, made the current one, and removed (private to this collection).

A generation is a directory ``NAME-FINGERPRINT`` beside the link ``current``. Its record, written last, says that it is
complete; the record's time says when the generation was last current.
"""

from __future__ import annotations

import glob
import os
import re
import time
import typing as t
from dataclasses import asdict

from ansible_collections.flotilla.dask.plugins.module_utils._bytecode import clear
from ansible_collections.flotilla.dask.plugins.module_utils._environments import (
    BYTECODE_CACHE,
    CONDA_CACHE,
    GENERATION_RECORD,
    ON_CONTROLLER,
    PREFIX_RECORD,
    WHEEL_CACHE,
    Options,
    Supplies,
    lacks,
    packages_of,
    read_record,
    remove,
    unpack,
    uv_is_missing,
    uv_of,
    workplace,
    write_record,
)
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._interpreters import interpreter, refuse_others_programs
from ansible_collections.flotilla.dask.plugins.module_utils._locks import pypi_name, requirement_name
from ansible_collections.flotilla.dask.plugins.module_utils._rattler_side import stem

CURRENT = "current"
RECENT = 3600.0
"""Seconds within which a run that made an environment makes it the current one."""
_FINGERPRINT = re.compile(r"(?P<name>.+)-[0-9a-f]{12}")


def dask_generation(options: Options, check_mode: bool) -> Options:
    """Completes a generation, makes it the current one, and removes those that are too many.

    :raises DaskError: ``current`` isn't a link, or uv refused a plugin.
    """
    path, prefix = options["path"], options["prefix"] or options["path"]
    parent = os.path.dirname(path)
    link = os.path.join(parent, CURRENT)
    if os.path.lexists(link) and not os.path.islink(link):
        raise DaskError(
            "{0} is refused: it is not a link, and nothing of this collection's. Move it away.".format(link)
        )
    complete = read_record(path, GENERATION_RECORD) is not None
    before = os.readlink(link) if os.path.islink(link) else ""
    swap = before != prefix
    removed = _surplus(path, before, options["keep"])
    if not check_mode and (swap or removed or not complete):
        with workplace(options["cache"]) as work:
            if not complete:
                supplies = unpack(options["supplies"], work)
                needs = _needs(options, prefix, supplies)
                if needs:
                    return {"changed": False, "needs": needs}
                _complete(options, prefix, supplies)
            if swap:
                if os.path.exists(os.path.join(before, GENERATION_RECORD)):
                    os.utime(os.path.join(before, GENERATION_RECORD))
                os.utime(os.path.join(path, GENERATION_RECORD))
                _point(link, prefix)
            for directory in removed:
                remove(directory)
            if removed:
                _clear_caches(parent, options)
    states = [_state(before, []), _state(prefix, removed)]
    return {
        "changed": not complete or swap or bool(removed),
        "current": prefix,
        "removed": [os.path.basename(directory) for directory in removed],
        "diff": {"before_header": link, "after_header": link, "before": states[0], "after": states[1]},
    }


def _needs(options: Options, prefix: str, supplies: Supplies) -> Options:
    """Returns what only the controller can give and has not sent: uv, sources, and where it fetches also wheels."""
    if not options["plugins"]:
        return {}
    archives = [plugin["file"] for plugin in options["plugins"] if plugin.get("archive")]
    wheels = [each["file"] for each in options["resolved"] or []]
    unknown = options["download_on"] == ON_CONTROLLER and options["resolved"] is None
    needs = lacks(options, supplies, [], uv=True)
    lacking = [file for file in (*archives, *wheels) if not supplies.path(file)]
    if not (needs or lacking or (unknown and len(archives) < len(options["plugins"]))):
        return {}
    files = [*needs.get("files", []), *lacking]
    python = interpreter(os.path.join(prefix, "bin", "python"))
    return {"files": files, "platform": python.platform, "python": asdict(python)}


def _state(target: str, removed: t.Sequence[str]) -> str:
    lines = ["current: {0}".format(target)] if target else []
    return "".join(line + "\n" for line in [*lines, *("removed: {0}".format(each) for each in removed)])


def _complete(options: Options, prefix: str, supplies: Supplies) -> None:
    """Installs the plugins and writes the record."""
    path, directory = options["path"], options["plugin_directory"]
    if prefix == path and read_record(path) is None:
        raise DaskError("{0} was removed while this ran, by another run. Run this again.".format(path))
    os.makedirs(path, exist_ok=True)
    if options["plugins"]:
        refuse_others_programs(os.path.join(prefix, "bin", "python"))  # which uv runs
        remove(directory)
        uv = uv_of(options, supplies)
        wheels = options["resolved"] or []
        sent = {key: each["file"] for each in wheels for key in (pypi_name(each["name"]), each["url"])}
        for plugin in options["plugins"]:
            name = plugin.get("requirement") or plugin["file"]
            file = (
                plugin.get("file")
                if plugin.get("archive")
                else sent.get(name) or sent.get(pypi_name(requirement_name(name)))
            )
            # Without build isolation, as a plugin's build may import what the environment has, and the plugins before
            # it. Without dependencies, as a second copy of them would hide the environment's own.
            try:
                uv.install(
                    os.path.join(prefix, "bin", "python"),
                    *("--no-build-isolation", "--no-deps", "--target", directory),
                    supplies.path(file) if file else name,
                    index=options["download_on"] != ON_CONTROLLER,
                    path=directory,
                )
            except DaskError as error:
                raise DaskError(
                    "dask_environment_plugins: {0} cannot be installed. Correct the package, and run this again. "
                    "{1}".format(name, error)
                ) from error
    write_record(path, {"content": options["content"], "packages": packages_of(path)}, GENERATION_RECORD)


def _point(link: str, target: str) -> None:
    """Makes the link point elsewhere, with no moment in which it isn't there."""
    temporary = link + ".new"
    remove(temporary)
    os.symlink(target, temporary)
    os.replace(temporary, link)


def _surplus(path: str, current: str, keep: int) -> list[str]:
    """Returns the generations of this environment to remove: what was interrupted, and the oldest beyond ``keep``.

    Never the one that is or was just now the current one, nor one that a process runs from.
    """
    match = _FINGERPRINT.fullmatch(os.path.basename(path))
    name = match["name"] if match else ""
    beside = [
        each
        for each in glob.glob(os.path.join(glob.escape(os.path.dirname(path)), glob.escape(name) + "-*"))
        if _FINGERPRINT.fullmatch(os.path.basename(each)) and each not in (path, current)
    ]
    complete = [each for each in beside if read_record(each, GENERATION_RECORD) is not None]
    complete.sort(key=lambda each: os.stat(os.path.join(each, GENERATION_RECORD)).st_mtime, reverse=True)
    kept = 2 if current and current != path and current.startswith(os.path.dirname(path) + os.sep) else 1
    interrupted = [each for each in beside if each not in complete and not _is_recent(each)]
    surplus = interrupted + complete[max(keep - kept, 0) :]
    used = _used(surplus)
    return sorted(each for each in surplus if each not in used)


def _is_recent(directory: str) -> bool:
    """Whether another run may be about to complete it."""
    record = os.path.join(directory, PREFIX_RECORD)
    return os.path.exists(record) and time.time() - os.stat(record).st_mtime < RECENT


def _used(directories: t.Sequence[str]) -> set[str]:
    """Returns those directories that the command line, the program or the environment of a process names."""
    if not directories:
        return set()
    said = []
    for process in glob.glob("/proc/[0-9]*"):
        for file in ("cmdline", "environ"):
            try:
                with open(os.path.join(process, file), "rb") as content:
                    said.append(os.fsdecode(content.read()))
            except OSError:
                continue
        try:
            said.append(os.readlink(os.path.join(process, "exe")) + "\0")
        except OSError:
            continue
    everything = "\0".join(said)
    return {each for each in directories if each + os.sep in everything}


def _clear_caches(parent: str, options: Options) -> None:
    """Removes the packages that no environment was made from, and other versions of uv."""
    cache = options["cache"]
    used = set()
    for record in glob.glob(os.path.join(glob.escape(parent), "*", PREFIX_RECORD)):
        used.update((read_record(os.path.dirname(record)) or {}).get("files", []))
    used.update(stem(file) for file in list(used))
    for kind, pattern in ((WHEEL_CACHE, "*"), (WHEEL_CACHE, ".part-*"), (CONDA_CACHE, "*/info")):
        for found in glob.glob(os.path.join(glob.escape(cache), kind, pattern)):
            path = os.path.dirname(found) if kind == CONDA_CACHE else found
            if os.path.basename(path) not in used:
                remove(path)
    clear(os.path.join(cache, BYTECODE_CACHE))
    for program in glob.glob(os.path.join(glob.escape(cache), "uv-*")):
        if os.path.basename(program) != options["uv"]:
            remove(program)
    if not uv_is_missing(options):
        uv_of(options, Supplies("")).prune()
