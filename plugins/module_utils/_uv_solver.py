# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Solves Python packages on the controller, by uv, into a lock for all platforms (private to this collection)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import typing as t
from dataclasses import asdict, dataclass

from ansible_collections.flotilla.dask.plugins.module_utils._digest import digest
from ansible_collections.flotilla.dask.plugins.module_utils._downloads import cache_directory, refuse_missing_bundle
from ansible_collections.flotilla.dask.plugins.module_utils._environments import uv_environment, uv_source
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._files import read_text, write_text
from ansible_collections.flotilla.dask.plugins.module_utils._locks import (
    UV,
    LockError,
    diff,
    difference,
    has_package,
    listed,
)
from ansible_collections.flotilla.dask.plugins.module_utils._platform import OLDEST_PYTHON, Python
from ansible_collections.flotilla.dask.plugins.module_utils._pylock import (
    choose,
    contents,
    is_for,
    made_from,
    oldest_python,
    requirements_digest,
    with_head,
)

LOCK_ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "update": {"type": "bool", "default": False},
    "cache": {"type": "path", "default": ""},
    "wheelhouse": {"type": "str", "default": ""},
    "ca_bundle": {"type": "path", "default": ""},
}
"""The options of all modules that make locks; the documentation fragment ``locks`` describes them."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class UnsolvedError(DaskError):
    """uv found no packages that meet requirements, or could not ask for them."""


def venv_lock(options: t.Mapping[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Reads the lock, solves what it was not made for, and writes it.

    :raises DaskError: a requirement or the lock was refused, or the requirements cannot be met.
    """
    path = absolute_lock(options["path"])
    requirements = checked_requirements(options["requirements"])
    refuse_options(options["constraints"])
    requirements += [each for each in options["also"] if not has_package(tuple(requirements), each)]
    pythons = [Python(**each) for each in options["pythons"]]
    refuse_missing_bundle(options["ca_bundle"])
    before = read_on_controller(path)
    after = _solved(before, requirements, pythons, options)
    chosen = {python.key: choose(after, path, python, options["sources"]) for python in pythons}
    for key, packages in chosen.items():
        refuse_lacking(path, key, [package.name for package in packages], options["also"])
    if after != before and not check_mode:
        write_on_controller(path, after)
    lists = {python.key: (_known(before, path, python), listed(chosen[python.key])) for python in pythons}
    return {
        "changed": after != before,
        "lock": {
            "digest": digest(contents(after, path)),
            "platforms": list(chosen),
            "packages": [asdict(package) for packages in chosen.values() for package in packages],
        },
        "packages": {key: difference(*pair) for key, pair in lists.items()},
        "diff": [diff("{0} ({1})".format(path, key), *pair) for key, pair in lists.items() if pair[0] != pair[1]],
    }


def checked_requirements(requirements: t.Sequence[str]) -> list[str]:
    """Returns requirements that uv can be asked for. :raises DaskError: one was refused, or there are none."""
    from packaging.requirements import InvalidRequirement, Requirement

    if not requirements:
        raise DaskError(
            "dask_environment_packages: [] is refused. Allowed: at least one requirement, such as dask; processes need "
            "dask and distributed."
        )
    for requirement in requirements:
        try:
            if _CONTROL.search(requirement):
                raise InvalidRequirement("it has a control character")
            Requirement(requirement)
        except InvalidRequirement as error:
            reason = str(error).splitlines()[0].rstrip(".:")
            raise DaskError(
                "dask_environment_packages: {0!r} is refused ({1}). Allowed: a requirement such as dask>=2026.8, "
                "without options.".format(requirement, reason)
            ) from error
    return list(requirements)


def refuse_options(constraints: str) -> None:
    """:raises DaskError: constraints have options, which would mean nothing here, or hashes, which uv ignores."""
    for line in constraints.splitlines():
        if line.strip().startswith("-") or "--hash" in line or line.rstrip().endswith("\\"):
            raise DaskError(
                "dask_environment_constraints: {0!r} is refused. Allowed: a line for each package, such as "
                "dask==2026.8.0, without options and hashes; the lock has the hashes.".format(line.strip())
            )


def refuse_lacking(path: str, key: str, names: t.Sequence[str], needed: t.Sequence[str]) -> None:
    """:raises LockError: a lock lacks a package that processes need."""
    for each in needed:
        if not has_package(tuple(names), each):
            raise LockError(
                "{0} is refused: for {1} it lacks {2}, without which nothing of a cluster runs. Allowed: "
                "dask_environment_packages, or a lock, with it.".format(path, key, each)
            )


def absolute_lock(path: str) -> str:
    """Returns the path that a lock is read from and written to. :raises DaskError: it is relative."""
    if not os.path.isabs(path) or _CONTROL.search(path):
        raise DaskError(
            "dask_environment_lock: {0!r} is refused. Allowed: an absolute path on the controller, such as one that "
            "begins with {{{{ inventory_dir }}}}; without an inventory's directory there is no default.".format(path)
        )
    return os.path.realpath(path)


def write_on_controller(path: str, text: str) -> None:
    """Writes a user's file, and makes its directory. :raises DaskError: it cannot be written."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise DaskError("{0} cannot be written: {1}.".format(path, error.strerror or error)) from error


def read_on_controller(path: str) -> str | None:
    """Returns the text of a user's file; None where there is none. :raises DaskError: it cannot be read."""
    try:
        return read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DaskError("{0} cannot be read: {1}.".format(path, error)) from error


def _solved(
    before: str | None, requirements: list[str], pythons: t.Sequence[Python], options: t.Mapping[str, t.Any]
) -> str:
    """Returns a lock's text: that which is there where it fits, or was made elsewhere; else solved anew."""
    path = options["path"]
    wanted = requirements_digest(requirements, options["constraints"])
    if before is not None and not made_from(before):
        if options["update"]:
            raise LockError(
                "dask_environment_update: True is refused, as {0} was not made by this collection. Update it with what "
                "made it, or name another dask_environment_lock.".format(path)
            )
        return before
    fits = before is not None and made_from(before) == wanted and all(is_for(before, path, each) for each in pythons)
    if before is not None and fits and not options["update"]:
        return before
    known = [oldest_python(before, path)] if before is not None else []
    asked = [*filter(None, known), *("{0}.{1}".format(*each.minor) for each in pythons)]
    oldest = min(asked, key=_as_numbers, default=OLDEST_PYTHON)
    solver = Solver(cache_directory(options["cache"]), options["ca_bundle"], options["wheelhouse"])
    try:
        lock = solver.solve(requirements, options["constraints"], oldest, "" if options["update"] else before or "")
    except UnsolvedError as error:
        raise UnsolvedError("dask_environment_packages cannot be solved: {0}".format(error)) from error
    return with_head(lock, wanted)


def _as_numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def _known(lock: str | None, path: str, python: Python) -> list[str]:
    """What a lock said for an interpreter; nothing where it had no answer."""
    try:
        return listed(choose(lock, path, python, sources=True)) if lock else []
    except LockError:
        return []


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
        :raises UnsolvedError: uv has no solution; the message is its explanation.
        :raises DaskError: there is no uv.
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
        cache = os.path.join(self.cache, "uv-cache") if self.cache else ""
        done = subprocess.run(
            [controller_uv(), *words, *uv_source(self.wheelhouse)],
            env={**uv_environment(cache, self.ca_bundle), "UV_PYTHON": sys.executable},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise UnsolvedError(" ".join(done.stderr.split()))


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
