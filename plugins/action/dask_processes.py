# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Renders a launcher's templates on the controller, once for each process, and hands the result to the module.

The module and its options, secrets among them, go to the host through a pipe where the connection has one, and not as a
file; and the host's log gets none of them.
"""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template

from ansible_collections.flotilla.dask.plugins.plugin_utils.private import send_through_pipe, unlogged


class ActionModule(ActionBase):
    """The controller's half of M(flotilla.dask.dask_processes)."""

    TRANSFERS_FILES = False
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        task_vars = task_vars or {}
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        options = dict(self._task.args)
        processes = options.get("processes") or []
        if options.get("state", "started") == "started":
            if processes and not options.get("template"):
                raise AnsibleActionFail("dask_processes needs 'template' to define processes")
            options["processes"] = [
                {**process, "definition": self._render(options["template"], {**task_vars, "process": process})}
                for process in processes
            ]
            if options.get("daemon_template"):
                options["daemon_definition"] = self._render(options["daemon_template"], task_vars)
        if options.get("secrets"):
            send_through_pipe(self._connection)
        result.update(self._execute_module(module_args=options, task_vars=unlogged(task_vars)))
        return result

    def _render(self, template: str, variables: dict[str, t.Any]) -> str:
        path = self._find_needle("templates", template)
        text = trust_as_template(self._loader.get_text_file_contents(path))
        templar = self._templar.copy_with_new_env(available_variables=variables)
        return str(templar.template(text, escape_backslashes=False))
