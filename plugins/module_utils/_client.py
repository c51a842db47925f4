# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How modules talk to Dask (private to this collection).

The Python of the host has no distributed. ``_environment_side`` is run with the environment's interpreter instead,
which takes half the time of starting the whole module a second time there.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import typing as t

from ansible_collections.flotilla.dask.plugins.module_utils import _environment_side
from ansible_collections.flotilla.dask.plugins.module_utils._clusters import Description, environment
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._service import module_text


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
        self._errors = tempfile.TemporaryFile(mode="w+", encoding="utf-8")
        self._process = _start(self.cluster, task, self._errors)
        return self

    def __exit__(self, *_details: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def state(self) -> dict[str, t.Any]:
        """Returns what ``_environment_side.scheduler_state`` does: who the scheduler is, its workers and its software.

        :raises UnreachableError: nothing answers there, or not in time.
        :raises DaskError: the environment doesn't work.
        """
        questions, answers = t.cast("tuple[t.IO[str], t.IO[str]]", (self._process.stdin, self._process.stdout))
        try:
            questions.write("?\n")
            questions.flush()
            answer = answers.readline()
        except BrokenPipeError:
            answer = ""
        state: dict[str, t.Any] = _read(self.cluster, self.timeout, answer, self._errors)
        return state


def ask_scheduler(cluster: Description, timeout: float, question: dict[str, t.Any]) -> t.Any:
    """Returns the scheduler's answer to one of its operations.

    :param timeout: Seconds for the connection and again for the answer.
    :raises UnreachableError: nothing answers there, or not in time.
    :raises DaskError: the environment doesn't work, or the scheduler doesn't know the question.
    """
    with tempfile.TemporaryFile(mode="w+", encoding="utf-8") as errors:
        process = _start(cluster, ["ask", cluster["scheduler"], str(timeout), json.dumps(question)], errors)
        answer = _read(cluster, timeout, process.communicate()[0], errors)
    if answer is None:
        raise DaskError(
            "The scheduler doesn't know the operation '{0}'. Run flotilla.dask.site to bring it up to date.".format(
                question["op"]
            )
        )
    return answer


def _start(cluster: Description, task: list[str], errors: t.IO[str]) -> subprocess.Popen[str]:
    """Runs ``_environment_side`` in the cluster's environment. :raises DaskError: there is none."""
    try:
        return subprocess.Popen(
            [cluster["python"], "-c", module_text(_environment_side), *task],
            env={**os.environ, **environment(cluster)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    except OSError as error:
        raise DaskError(
            "The environment of cluster '{0}' is gone ({1}). Run flotilla.dask.site to install it.".format(
                cluster["cluster"], error
            )
        ) from error


def _read(cluster: Description, timeout: float, answer: str, errors: t.IO[str]) -> t.Any:
    """Returns what ``_environment_side`` answered. :raises DaskError: as ``ask_scheduler``."""
    if not answer:
        errors.seek(0)
        last = (errors.read().strip().splitlines() or ["it said nothing"])[-1]
        raise DaskError(
            "{0} cannot ask the scheduler ({1}). Run flotilla.dask.site to repair the environment.".format(
                cluster["python"], last
            )
        )
    content = json.loads(answer)
    if isinstance(content, dict) and "unreachable" in content:
        raise UnreachableError(
            "No scheduler answers at {0} within {1:g} s ({2}).".format(
                cluster["scheduler"], timeout, content["unreachable"]
            )
        )
    return content
