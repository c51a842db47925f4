# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Shows progress while the stages of a pipeline run.

The module waits for a short time only and is asked again, so that a long stage needs no connection that lasts as long.
"""

from __future__ import annotations

import typing as t

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

display = Display()


class ActionModule(ActionBase):
    """The controller's half of M(flotilla.dask.dask_pipeline)."""

    TRANSFERS_FILES = False
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        options = dict(self._task.args)
        outcome = self._execute_module(module_args=options, task_vars=task_vars)
        changed = outcome.get("changed", False)
        difference = outcome.get("diff")
        while not outcome.get("failed") and outcome.get("pipeline", {}).get("state") == "running":
            self._show(outcome["pipeline"], (task_vars or {}).get("inventory_hostname", ""))
            # Not again with rerun: that would run stages anew which ended meanwhile.
            outcome = self._execute_module(module_args={**options, "rerun": False}, task_vars=task_vars)
        result.update(outcome)
        result["changed"] = changed
        if difference is not None:
            result["diff"] = difference
        return result

    @staticmethod
    def _show(pipeline: dict[str, t.Any], host: str) -> None:
        stages = pipeline["stages"]
        done = sum(stage["state"] == "finished" for stage in stages)
        for stage in stages:
            if stage["state"] == "running":
                display.display(
                    "[{0}] pipeline {1}: {2} of {3} stages done, {4} runs for {5:.0f} s: {6}".format(
                        host,
                        pipeline["name"],
                        done,
                        len(stages),
                        stage["name"],
                        stage["seconds"],
                        pipeline["last_line"],
                    )
                )
