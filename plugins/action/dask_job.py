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

from ansible_collections.flotilla.dask.plugins.plugin_utils.scripts import with_script

display = Display()


class ActionModule(ActionBase):
    """The controller's half of M(flotilla.dask.dask_job)."""

    TRANSFERS_FILES = False
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        options = with_script(self, dict(self._task.args))
        outcome = self._execute_module(module_args=options, task_vars=task_vars)
        changed = outcome.get("changed", False)
        difference = outcome.get("diff")
        while self._is_waiting(options, outcome):
            job = outcome["job"]
            display.display(
                "[{0}] job {1}: {2:.0f} s, {3} of {4} tasks done".format(
                    (task_vars or {}).get("inventory_hostname", ""), job["name"], job["seconds"], *_counts(job)
                )
            )
            # Not again with rerun: that would run a job anew which ended meanwhile.
            outcome = self._execute_module(module_args={**options, "rerun": False}, task_vars=task_vars)
        result.update(outcome)
        result["changed"] = changed
        if difference is not None:
            result["diff"] = difference
        return result

    def _is_waiting(self, options: dict[str, t.Any], outcome: dict[str, t.Any]) -> bool:
        running = not outcome.get("failed") and outcome.get("job", {}).get("state") == "running"
        return running and options.get("state", "finished") == "finished" and not self._task.check_mode


def _counts(job: dict[str, t.Any]) -> tuple[int, int]:
    return job["progress"]["done"], job["progress"]["total"]
