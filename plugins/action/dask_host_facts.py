# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Says which run asks, and keeps the record alive that makes this run the only one that changes the cluster."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.flotilla.dask.plugins.plugin_utils.runs import keep_alive, run_holder, run_token

LONGEST_WAIT = 24 * 3600


class ActionModule(ActionBase):
    """The controller's half of M(flotilla.dask.dask_host_facts)."""

    TRANSFERS_FILES = False
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        options = {**self._task.args, "run": run_token(), "holder": run_holder()}
        options["wait"] = _seconds(options.get("wait", 0))
        result.update(self._execute_module(module_args=options, task_vars=task_vars))
        record = result.pop("record", "")
        if record:
            keep_alive(self, record, options["run"])
        return result


def _seconds(value: t.Any) -> int:
    try:
        seconds = -1 if isinstance(value, (bool, float)) else int(value)
    except (TypeError, ValueError):
        seconds = -1
    if not 0 <= seconds <= LONGEST_WAIT:
        raise AnsibleActionFail(
            "dask_run_wait_seconds: {0!r} is refused. Allowed: a whole number of seconds from 0 to {1}.".format(
                value, LONGEST_WAIT
            )
        )
    return seconds
