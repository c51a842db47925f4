# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's half of the modules that install software: sends what a host says it lacks.

A module is run with what it was given. Where it needs something of the controller, it changes nothing and says what;
the controller fetches that into its cache, sends it in one archive, and runs the module again.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tarfile
import time
import typing as t
import zipfile
from dataclasses import asdict

from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.flotilla.dask.plugins.module_utils._digest import digest
from ansible_collections.flotilla.dask.plugins.module_utils._downloads import (
    Item,
    cache_directory,
    fetch,
    refuse_missing_bundle,
)
from ansible_collections.flotilla.dask.plugins.module_utils._environments import ON_CONTROLLER, file_of, item_of, remove
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._exclusive import LONGEST, exclusive
from ansible_collections.flotilla.dask.plugins.module_utils._files import write_text
from ansible_collections.flotilla.dask.plugins.module_utils._locks import UV
from ansible_collections.flotilla.dask.plugins.module_utils._platform import (
    OLDEST_GLIBC,
    OLDEST_PYTHON,
    Python,
    host_platform,
)
from ansible_collections.flotilla.dask.plugins.module_utils._pylock import choose
from ansible_collections.flotilla.dask.plugins.module_utils._service import run
from ansible_collections.flotilla.dask.plugins.module_utils._uv_solver import Solver

ROUNDS = 3
"""How often at most a module can ask for more, as what it lacks can depend on what it got."""
ARCHIVE_SECONDS = 24 * 3600
"""How long an archive stays in the cache that no run uses."""
CA_BUNDLE = "ca-bundle.pem"
"""What a host finds the controller's file of authorities as."""

Options = t.Dict[str, t.Any]
Files = t.Dict[str, str]
"""Name on the host to path on the controller."""


class SupplyingAction(ActionBase):
    """Runs a module of the same name, and again with what it needs."""

    TRANSFERS_FILES = False
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        self.controller = {
            "cache": cache_directory(self._task.args.get("controller_cache") or ""),
            "ca_bundle": self._ca_bundle(self._task.args.get("ca_bundle") or ""),
            "wheelhouse": self._wheelhouse(self._task.args.get("wheelhouse") or ""),
        }
        options = {key: value for key, value in self._task.args.items() if key != "controller_cache"}
        options["ca_bundle"] = CA_BUNDLE if self.controller["ca_bundle"] else ""
        options["uv"] = UV.replace("==", "-")
        files: Files = {}
        try:
            options = self.complete(options)
            outcome = self._execute_module(module_args=options, task_vars=task_vars)
            needs = outcome.pop("needs", None)
            for _round in range(ROUNDS):
                if not needs or outcome.get("failed"):
                    break
                found, more = self.gather(options, needs)
                files.update(found)
                options = {**options, **more, "supplies": self._send(files)}
                outcome = self._execute_module(module_args=options, task_vars=task_vars)
                needs = outcome.pop("needs", None)
        except DaskError as error:
            raise AnsibleActionFail(str(error)) from error
        if needs:
            raise AnsibleActionFail("The host still lacks {0} after all was sent.".format(", ".join(needs["files"])))
        result.update(outcome)
        result["sent"] = sorted(files)
        return result

    def complete(self, options: Options) -> Options:
        """Returns the module's options, with what it takes from the controller in any case."""
        return options

    def gather(self, options: Options, needs: Options) -> tuple[Files, Options]:
        """Returns the files that the module needs, and options to add for its second run."""
        files = {CA_BUNDLE: self.controller["ca_bundle"]} if self.controller["ca_bundle"] else {}
        if options["uv"] in needs.get("files", []):
            files[options["uv"]] = uv_program(needs["platform"], self.controller)
        return files, {}

    def packages(self, options: Options, needs: Options) -> Files:
        """Returns those of the module's packages that the host lacks, fetched; a file of several platforms once."""
        places = options.get("mirror") or "", self.controller["wheelhouse"]
        wanted = [package for package in options["packages"] if file_of(package) in needs["files"]]
        return fetched(list({file_of(each): item_of(each, *places) for each in wanted}.values()), self.controller)

    def _wheelhouse(self, place: str) -> str:
        """Where the controller takes packages from, empty for the index: hosts may have a directory that it has not."""
        fetches = self._task.args.get("download_on") == ON_CONTROLLER
        return place if fetches or "://" in place or os.path.isdir(place) else ""

    def _ca_bundle(self, path: str) -> str:
        if not path:
            return ""
        found = str(self._loader.path_dwim(path))
        try:
            refuse_missing_bundle(found)
        except DaskError as error:
            raise AnsibleActionFail(str(error)) from error
        return found

    def _send(self, files: Files) -> str:
        """Sends files as one archive and returns where that is on the host."""
        if not files:
            return ""
        archive = packed(files, self.controller["cache"])
        self._make_tmp_path()
        remote = self._connection._shell.join_path(self._connection._shell.tmpdir, os.path.basename(archive))
        self._transfer_file(archive, remote)
        self._fixup_perms2((self._connection._shell.tmpdir, remote))
        return str(remote)


def packed(files: Files, cache: str) -> str:
    """Returns an archive of files, which is in the cache; one that no run has used for a day goes.

    The tasks of several hosts share it, and several runs. A run that is killed leaves none of its own.
    """
    content = sorted((name, os.path.realpath(path), os.stat(path).st_mtime_ns) for name, path in files.items())
    archive = os.path.join(cache, "archives", "supplies-{0}.tar".format(digest(content)))
    with one_at_a_time(cache) as work:
        os.makedirs(os.path.dirname(archive), exist_ok=True)
        for each in os.scandir(os.path.dirname(archive)):
            if each.path != archive and each.stat().st_mtime < time.time() - ARCHIVE_SECONDS:
                os.unlink(each.path)
        if os.path.exists(archive):
            os.utime(archive)
        else:
            temporary = os.path.join(work, "archive")
            with tarfile.open(temporary, mode="w") as tar:
                for name, path in files.items():
                    tar.add(os.path.realpath(path), arcname=name)
            os.replace(temporary, archive)
    return archive


@contextlib.contextmanager
def one_at_a_time(cache: str) -> t.Iterator[str]:
    """Lets the tasks of several hosts fetch the same only once.

    Yields a directory to work in, beside what is kept. What a killed run left in it is gone.
    """
    os.makedirs(cache, exist_ok=True)
    real = os.path.realpath(cache)
    with exclusive(os.path.join(real, ".lock"), LONGEST, "Cache {0}".format(cache)):
        work = os.path.join(real, ".work")
        remove(work)
        os.mkdir(work)
        try:
            yield work
        finally:
            remove(work)


def fetched(items: t.Sequence[Item], controller: Options) -> Files:
    """Returns where the files are, fetched into the controller's cache where they weren't there.

    :raises DownloadError: one couldn't be fetched, or is another than the locked one.
    """
    files = {}
    with one_at_a_time(controller["cache"]) as work:
        for directory, item in [(item.sha256 or item.md5 or digest(item.url), item) for item in items]:
            files[item.file] = os.path.join(controller["cache"], "packages", directory, item.file)
        lacking = [item for item in items if not item.is_at(files[item.file])]
        fetch(lacking, work, controller["ca_bundle"])
        for item in lacking:
            os.makedirs(os.path.dirname(files[item.file]), exist_ok=True)
            os.replace(os.path.join(work, item.file), files[item.file])
    return files


def uv_program(platform: str, controller: Options) -> str:
    """Returns the path of a uv that runs on hosts of a platform: the controller's own, else that of its wheel.

    :raises DaskError: there is none for the platform.
    """
    version = UV.partition("==")[2]
    own = os.path.join(os.path.dirname(sys.executable), "uv")  # of the package, which runs with any libc that wheels do
    if platform == host_platform() and os.path.exists(own) and run([own, "--version"]).split()[1] == version:
        return own
    program = os.path.join(controller["cache"], "uv", "{0}-{1}".format(version, platform), "uv")
    if not os.path.exists(program):
        python = Python(OLDEST_PYTHON, platform, "2.{0}".format(OLDEST_GLIBC))
        wheels = resolved([UV], "", asdict(python), controller, words=("--no-deps",))
        item = item_of(wheels[0], wheelhouse=controller["wheelhouse"])
        path = fetched([item], controller)[item.file]
        with one_at_a_time(controller["cache"]) as work, zipfile.ZipFile(path) as archive:
            temporary = os.path.join(work, "uv")
            with open(temporary, "wb") as target:
                target.write(archive.read("uv-{0}.data/scripts/uv".format(version)))
            os.makedirs(os.path.dirname(program), exist_ok=True)
            os.replace(temporary, program)
    return program


def resolved(
    requirements: t.Sequence[str],
    constraints: str,
    python: Options,
    controller: Options,
    sources: bool = False,
    words: t.Sequence[str] = (),
) -> list[Options]:
    """Returns the packages that a host would install, with name, version, url and sha256 of each.

    Found out once in a run of Ansible, for all hosts that are alike.

    :param python: ``version``, ``platform`` and ``libc`` of the host's Python.
    :param sources: Whether the host can build what has no wheel.
    :raises DaskError: uv found none that fit.
    """
    question = [list(requirements), constraints, python, controller["wheelhouse"], sources, words]
    answer = os.path.join(constants.DEFAULT_LOCAL_TMP, "packages-{0}.json".format(digest(question)))
    with one_at_a_time(controller["cache"]):
        if not os.path.exists(answer):
            lock = Solver(**controller).solve(requirements, constraints, python["version"], words=words)
            chosen = choose(lock, ", ".join(requirements), Python(**python), sources)
            write_text(answer, json.dumps([asdict(each) for each in chosen]))
    with open(answer, encoding="utf-8") as file:
        return t.cast("t.List[Options]", json.load(file))
