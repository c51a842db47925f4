# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Confirms a firewall's rules over a new connection: the one that loaded them says nothing about who still gets in."""

from __future__ import annotations

import time
import typing as t

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

from ansible_collections.flotilla.dask.plugins.module_utils._wait import pauses


class ActionModule(ActionBase):
    """The controller's half of M(flotilla.dask.dask_firewall)."""

    TRANSFERS_FILES = False
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        task_vars = task_vars or {}
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        result.update(self._execute_module(module_args=dict(self._task.args), task_vars=task_vars))
        if result.get("unconfirmed"):
            confirmed, error = self._confirm(result["unconfirmed"], task_vars)
            if confirmed.get("failed"):
                return confirmed
            if not confirmed.get("changed"):
                raise AnsibleActionFail(
                    "The host has taken the rules back and has what it had before, as no new connection confirmed them "
                    "within {0} seconds: {1}. Look for what in them keeps you out, or allow for more time "
                    "(dask_firewall_confirm_seconds).".format(result["unconfirmed"], error or "it took too long")
                )
            result["unconfirmed"] = 0
        return result

    def _confirm(self, seconds: int, task_vars: dict[str, t.Any]) -> tuple[dict[str, t.Any], str]:
        """Confirms over a new connection, as soon as there is one while the host keeps the rules.

        :return: What the module said, nothing without a connection; and why there was none, if that happened.
        """
        arguments = {"cluster": self._task.args["cluster"], "state": "confirmed"}
        end = time.monotonic() + seconds
        problem = ""
        for pause in pauses(first=0.2, longest=2):
            self._connection.reset()
            try:
                return self._execute_module(module_args=arguments, task_vars=task_vars), problem
            except AnsibleConnectionFailure as error:
                problem = str(error)
            if time.monotonic() + pause > end:
                break
            time.sleep(pause)
        return {}, problem
