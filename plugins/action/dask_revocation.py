# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Revokes certificates of clients, in the directory on the controller that has the authority."""

from __future__ import annotations

import os
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.plugin_utils.revocation import issued, note, revoke

OPTIONS: dict[str, dict[str, t.Any]] = {
    "directory": {"type": "path", "required": True},
    "client": {"type": "str", "required": True},
    "certificate": {"type": "str"},
    "state": {"type": "str", "choices": ["issued", "revoked"], "required": True},
}


class ActionModule(ActionBase):
    """All of M(flotilla.dask.dask_revocation), which touches no host."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _validation, options = self.validate_argument_spec(
            argument_spec=OPTIONS, required_if=[("state", "issued", ("certificate",))]
        )
        directory, client = os.path.abspath(options["directory"]), options["client"]
        try:
            if options["state"] == "issued":
                changes = note(directory, client, options["certificate"], self._task.check_mode)
                record = issued(directory)
            else:
                record, changes = revoke(directory, client, self._task.check_mode)
        except (DaskError, OSError) as error:
            raise AnsibleActionFail(str(error)) from error
        return {**result, "changed": bool(changes), "diff": changes, "revoked": record.revoked}
