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
        try:
            self._process = subprocess.Popen(
                [self.cluster["python"], "-c", environment_side(), *task],
                env={**os.environ, **environment(self.cluster)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
            )
        except OSError as error:
            raise DaskError(
                "The environment of cluster '{0}' is gone ({1}). Run flotilla.dask.site to install it.".format(
                    self.cluster["cluster"], error
                )
            ) from error
        return self

    def __exit__(self, *_details: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def state(self) -> dict[str, t.Any]:
        """Returns what ``distributed.Scheduler.identity`` returns, for all workers, with ``versions`` added.

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
        if not answer:
            self._errors.seek(0)
            last = (self._errors.read().strip().splitlines() or ["it said nothing"])[-1]
            raise DaskError(
                "{0} cannot ask the scheduler ({1}). Run flotilla.dask.site to repair the environment.".format(
                    self.cluster["python"], last
                )
            )
        state: dict[str, t.Any] = json.loads(answer)
        if "unreachable" in state:
            raise UnreachableError(
                "No scheduler answers at {0} within {1:g} s ({2}).".format(
                    self.cluster["scheduler"], self.timeout, state["unreachable"]
                )
            )
        return state


def environment_side() -> str:
    """Returns the text of ``_environment_side``, also from within the archive that Ansible packs a module into."""
    loader = _environment_side.__spec__.loader if _environment_side.__spec__ else None
    return str(t.cast("t.Any", loader).get_source(_environment_side.__name__))
