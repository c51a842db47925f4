# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keeps a cluster's authority and bundles on the controller, as one step that no other run can come between."""

from __future__ import annotations

import os
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.plugin_utils.authority import Keeper, Wishes
from ansible_collections.flotilla.dask.plugins.plugin_utils.issuing import Issuer

OPTIONS: dict[str, dict[str, t.Any]] = {
    "directory": {"type": "path", "required": True},
    "cluster": {"type": "str", "required": True},
    "scheduler": {"type": "str", "default": ""},
    "passphrase": {"type": "str", "no_log": True, "default": ""},
    "phase": {"type": "str", "choices": ["keep", "renew", "trust", "issue", "retire"], "default": "keep"},
    "days": {"type": "int", "default": 365},
    "renew_days": {"type": "int", "default": 30},
    "authority_days": {"type": "int", "default": 3650},
    "clients": {"type": "list", "elements": "str", "default": []},
    "template": {"type": "str", "default": "client.yaml.j2"},
    "wait": {"type": "int", "default": 600},
    "state": {"type": "str", "choices": ["present", "revoked", "absent"], "default": "present"},
}


class ActionModule(ActionBase):
    """All of M(flotilla.dask.dask_authority), which touches no host."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _validation, options = self.validate_argument_spec(argument_spec=OPTIONS)
        directory = os.path.abspath(options["directory"])

        def render(client: str, trusted: str, certificate: str, key: str) -> str:
            variables = {name: options[name] for name in ("cluster", "scheduler")}
            variables.update(client=client, trusted=trusted, certificate=certificate, key=key)
            return self._render(options["template"], variables)

        keeper = Keeper(directory, Issuer(self), render, self._task.check_mode, options["wait"])
        try:
            if options["state"] == "absent":
                keeper.remove()
            elif options["state"] == "revoked":
                for client in options["clients"]:
                    keeper.revoke(client)
            else:
                keeper.keep(
                    Wishes(
                        cluster=options["cluster"],
                        passphrase=options["passphrase"],
                        phase=options["phase"],
                        days=options["days"],
                        renew_days=options["renew_days"],
                        authority_days=options["authority_days"],
                        clients=tuple(options["clients"]),
                    )
                )
        except (DaskError, OSError) as error:
            raise AnsibleActionFail(str(error)) from error
        return {**result, "changed": bool(keeper.changes), "diff": keeper.changes, "authority": keeper.found.as_dict()}

    def _render(self, template: str, variables: dict[str, t.Any]) -> str:
        text = trust_as_template(self._loader.get_text_file_contents(self._find_needle("templates", template)))
        templar = self._templar.copy_with_new_env(available_variables=variables)
        return str(templar.template(text, escape_backslashes=False)) + "\n"
