# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Brings a script along from the controller, and shows progress while a job runs.

The module waits for a short time only and is asked again, so that a long job needs no connection that lasts as long.
"""

from __future__ import annotations

import typing as t

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.flotilla.dask.plugins.plugin_utils.following import follow
from ansible_collections.flotilla.dask.plugins.plugin_utils.private import send_through_pipe, unlogged
from ansible_collections.flotilla.dask.plugins.plugin_utils.scripts import with_script

display = Display()


class ActionModule(ActionBase):
    """The controller's half of M(flotilla.dask.dask_job)."""

    TRANSFERS_FILES = False
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        options = with_script(self, dict(self._task.args))
        waits = options.get("state", "finished") == "finished" and not self._task.check_mode
        if options.get("secrets"):
            send_through_pipe(self._connection)
        variables = unlogged(task_vars)
        result.update(follow(self, options, variables, lambda outcome: waits and _is_running(outcome), _show))
        return result


def _is_running(outcome: dict[str, t.Any]) -> bool:
    return bool(outcome.get("job", {}).get("state") == "running")


def _show(outcome: dict[str, t.Any], host: str) -> None:
    job = outcome["job"]
    progress = job["progress"]
    display.display(
        "[{0}] job {1}: {2:.0f} s, {3} of {4} tasks done".format(
            host, job["name"], job["seconds"], progress["done"], progress["total"]
        )
    )
