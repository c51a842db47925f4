# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plans a cluster inside a batch job, renders its script, and shows progress while the job waits and starts.

The module waits for a short time only and is asked again, so that a long queue needs no connection that lasts as long.
"""

from __future__ import annotations

import os
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template
from ansible.utils.display import Display

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._secrets import read_secrets
from ansible_collections.flotilla.dask.plugins.module_utils.launch.batch import batch_plan
from ansible_collections.flotilla.dask.plugins.plugin_utils.private import send_through_pipe, unlogged
from ansible_collections.flotilla.dask.plugins.plugin_utils.scripts import with_script

display = Display()

TEMPLATE = os.path.join(os.path.dirname(__file__), "..", "..", "roles", "dask_batch", "templates", "job.sh.j2")
WAITING = ("pending", "starting")


class ActionModule(ActionBase):
    """The controller's half of M(flotilla.dask.dask_batch_cluster)."""

    TRANSFERS_FILES = False
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        task_vars = unlogged(task_vars)
        options = with_script(self, dict(self._task.args))
        # What the module returns is used: it is told secrets only where it writes them, as they are cut out of results.
        secrets, problems = read_secrets("secrets", options.pop("secrets", None), options.get("environment") or {})
        if problems:
            raise AnsibleActionFail("\n".join(problems))
        if secrets:
            send_through_pipe(self._connection)
        outcome = self._execute_module(module_args=options, task_vars=task_vars)
        if "site" not in outcome or outcome.get("failed"):
            result.update(outcome)
            return result
        settings = {**outcome["settings"], "site": outcome["site"], "secrets": sorted(secrets)}
        made = self._made(settings)
        result.update(changed=False, jobqueue=made["plan"]["jobqueue"])
        if settings["state"] == "planned":
            result.update(job_script=made["job_script"])
            return result
        outcome = self._execute_module(module_args={**options, **made, "secrets": secrets}, task_vars=task_vars)
        result.update(outcome)
        while self._is_waiting(settings, outcome):
            self._show(outcome["cluster"], (task_vars or {}).get("inventory_hostname", ""))
            following = {**options, **made, "job": outcome["cluster"]["job"]}
            outcome = self._execute_module(module_args=following, task_vars=task_vars)
            result.update(outcome, changed=result["changed"] or outcome.get("changed", False))
        if outcome.get("lacking") and not outcome.get("failed") and not self._task.check_mode:
            joining = {**settings, "chunks": outcome["lacking"], "kind": "workers", "scheduler_alone": False}
            added = self._execute_module(module_args={**options, **self._made(joining)}, task_vars=task_vars)
            if added.get("failed"):
                result.update(added)
            else:
                result["cluster"]["more"] = added["more"]
        return result

    def _made(self, settings: dict[str, t.Any]) -> dict[str, t.Any]:
        """The plan and the script."""
        try:
            plan = batch_plan(settings)
        except DaskError as error:
            raise AnsibleActionFail(str(error)) from error
        text = trust_as_template(self._loader.get_text_file_contents(TEMPLATE))
        templar = self._templar.copy_with_new_env(available_variables={"plan": plan})
        return {"plan": plan, "job_script": str(templar.template(text, escape_backslashes=False))}

    def _is_waiting(self, settings: dict[str, t.Any], outcome: dict[str, t.Any]) -> bool:
        if outcome.get("failed") or self._task.check_mode or settings["state"] != "present":
            return False
        state = outcome.get("cluster", {}).get("state")
        runs = state == "running" and bool(settings["function"] or settings["script"])
        return state in WAITING or runs

    @staticmethod
    def _show(cluster: dict[str, t.Any], host: str) -> None:
        words = {"pending": "waits in the queue", "starting": "starts", "running": "runs"}[cluster["state"]]
        display.display(
            "[{0}] batch cluster {1}: job {2} {3}, {4:.0f} s after its submission{5}".format(
                host,
                cluster["name"],
                cluster["job"],
                words,
                cluster["seconds"],
                ": " + cluster["reason"] if cluster["reason"] else "",
            )
        )
