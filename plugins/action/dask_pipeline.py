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

from ansible_collections.flotilla.dask.plugins.plugin_utils.following import follow
from ansible_collections.flotilla.dask.plugins.plugin_utils.private import unlogged

display = Display()


class ActionModule(ActionBase):
    """The controller's half of M(flotilla.dask.dask_pipeline)."""

    TRANSFERS_FILES = False
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        result.update(follow(self, dict(self._task.args), unlogged(task_vars), _is_running, _show))
        return result


def _is_running(outcome: dict[str, t.Any]) -> bool:
    return bool(outcome.get("pipeline", {}).get("state") == "running")


def _show(outcome: dict[str, t.Any], host: str) -> None:
    pipeline = outcome["pipeline"]
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
