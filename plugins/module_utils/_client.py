# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How modules talk to Dask (private to this collection).

The Python of the host has no distributed. ``_environment_side`` is run with the environment's interpreter instead,
which takes half the time of starting the whole module a second time there. It runs as the cluster's account: what a
scheduler answers is unpickled, and every task can change the answer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import tempfile
import typing as t

from ansible_collections.flotilla.dask.plugins.module_utils import _environment_side
from ansible_collections.flotilla.dask.plugins.module_utils._accounts import (
    Account,
    find_account,
    read_answer,
    read_json,
    this_account,
)
from ansible_collections.flotilla.dask.plugins.module_utils._clusters import Description, environment
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._service import module_text

START_SECONDS = 60.0
"""How long the environment's Python may take to start."""
ANSWERS = 6
"""Waits, for a connection or an answer, that one question may need."""
LARGEST_ERROR = 2**16
_STATE: dict[str, type | tuple[type, ...]] = {
    "difference": str,
    "environment": str,
    "started": (int, float),
    "versions": dict,
    "workers": dict,
}


class UnreachableError(DaskError):
    """No scheduler answered in the time given."""


class SchedulerWatch:
    """Asks a cluster's scheduler how it is, as often as one likes, without becoming one of its clients.

    :param timeout: Seconds for the connection and again for each answer.
    """

    def __init__(self, cluster: Description, timeout: float) -> None:
        self.cluster = cluster
        self.timeout = timeout

    def __enter__(self) -> SchedulerWatch:
        task = ["watch", self.cluster["scheduler"], str(self.timeout)]
        self._errors = tempfile.TemporaryFile()
        self._process = _start(self.cluster, task, self._errors)
        return self

    def __exit__(self, *_details: object) -> None:
        _end(self._process)
        self._errors.close()

    def state(self) -> dict[str, t.Any]:
        """Returns what ``_environment_side.scheduler_state`` does: who the scheduler is, its workers and its software.

        :raises UnreachableError: nothing answers there, or not in time.
        :raises DaskError: the environment doesn't work, or what answers isn't a scheduler's state.
        """
        questions = t.cast("t.IO[bytes]", self._process.stdin)
        with contextlib.suppress(BrokenPipeError):
            questions.write(b"?\n")
            questions.flush()
        state = _read(self.cluster, self.timeout, self._process, self._errors)
        if not isinstance(state, dict) or not all(isinstance(state.get(key), kind) for key, kind in _STATE.items()):
            raise DaskError(
                "What answers at {0} does not answer as a scheduler does. A task may have changed it. Restart the "
                "scheduler.".format(self.cluster["scheduler"])
            )
        return t.cast("dict[str, t.Any]", state)


def ask_scheduler(cluster: Description, timeout: float, question: dict[str, t.Any]) -> t.Any:
    """Returns the scheduler's answer to one of its operations.

    :param timeout: Seconds for the connection and again for the answer.
    :raises UnreachableError: nothing answers there, or not in time.
    :raises DaskError: the environment doesn't work, or the scheduler doesn't know the question.
    """
    with tempfile.TemporaryFile() as errors:
        process = _start(cluster, ["ask", cluster["scheduler"], str(timeout), json.dumps(question)], errors)
        try:
            answer = _read(cluster, timeout, process, errors)
        finally:
            _end(process)
    if answer is None:
        raise DaskError(
            "The scheduler doesn't know the operation '{0}'. Run flotilla.dask.site to bring it up to date.".format(
                question["op"]
            )
        )
    return answer


def cluster_account(cluster: Description) -> Account:
    """Returns whom a process belongs to that has to do with a cluster: root's are the cluster's account's.

    :raises DaskError: the cluster's account is gone.
    """
    me = this_account()
    if me.uid != 0 or cluster["user"] == me.name:
        return me
    found = find_account(cluster["user"])
    if found is None:
        raise DaskError(
            "The account '{0}' that the cluster runs as is gone. Run flotilla.dask.site.".format(cluster["user"])
        )
    return dataclasses.replace(found, home=os.path.dirname(cluster["jobs"]))  # as the cluster's processes have it


def _start(cluster: Description, task: list[str], errors: t.IO[bytes]) -> subprocess.Popen[bytes]:
    """Runs ``_environment_side`` in the cluster's environment. :raises DaskError: there is none."""
    account = cluster_account(cluster)
    try:
        return subprocess.Popen(
            [cluster["python"], "-c", module_text(_environment_side), *task],
            env={**account.environment(), **environment(cluster)},
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            **account.popen(),
        )
    except OSError as error:
        raise DaskError(
            "The environment of cluster '{0}' is gone ({1}). Run flotilla.dask.site to install it.".format(
                cluster["cluster"], error
            )
        ) from error


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process, and does not wait for what it may have started, which can keep its output open."""
    process.kill()
    with process, contextlib.suppress(BrokenPipeError):
        t.cast("t.IO[bytes]", process.stdin).close()  # what it was asked and did not read


def _read(cluster: Description, timeout: float, process: subprocess.Popen[bytes], errors: t.IO[bytes]) -> t.Any:
    """Returns the next line that ``_environment_side`` answers. :raises DaskError: as ``ask_scheduler``."""
    descriptor = t.cast("t.IO[bytes]", process.stdout).fileno()
    answer = read_answer(descriptor, START_SECONDS + ANSWERS * timeout, until_line=True)
    if answer is None:
        raise UnreachableError(
            "The answer from {0} was not complete in time, or its process was stopped.".format(cluster["scheduler"])
        )
    if not answer:
        errors.seek(0)
        last = (errors.read(LARGEST_ERROR).decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        raise DaskError(
            "{0} cannot ask the scheduler ({1}). Run flotilla.dask.site to repair the environment.".format(
                cluster["python"], last
            )
        )
    content = read_json(answer)
    if isinstance(content, dict) and "unreachable" in content:
        raise UnreachableError(
            "No scheduler answers at {0} within {1:g} s ({2}).".format(
                cluster["scheduler"], timeout, content["unreachable"]
            )
        )
    return content
