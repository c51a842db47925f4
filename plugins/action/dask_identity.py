# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes a key and its certificate in the controller's memory, and sends them to the host through a pipe."""

from __future__ import annotations

import os
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._identity import ISSUE
from ansible_collections.flotilla.dask.plugins.plugin_utils.authority import PLACEHOLDER, check_key, read
from ansible_collections.flotilla.dask.plugins.plugin_utils.issuing import Issuer
from ansible_collections.flotilla.dask.plugins.plugin_utils.private import send_through_pipe


class ActionModule(ActionBase):
    """The controller's half of M(flotilla.dask.dask_identity)."""

    TRANSFERS_FILES = False
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        options = dict(self._task.args)
        wish = options.pop("issue", None)
        try:
            if wish:
                options["key"], options["certificate"] = self._issue(_checked(wish))
        except (DaskError, OSError) as error:
            raise AnsibleActionFail(str(error)) from error
        send_through_pipe(self._connection)
        result.update(self._execute_module(module_args=options, task_vars=task_vars))
        return result

    def _issue(self, wish: dict[str, t.Any]) -> tuple[str, str]:
        if self._task.check_mode:
            return "", PLACEHOLDER
        authority = None
        if wish["directory"]:
            directory = os.path.abspath(wish["directory"])
            found = read(directory)
            if not found.issuer:
                raise DaskError("{0} has no authority that issues. Run flotilla.dask.site.".format(directory))
            check_key(directory, found.issuer, wish["passphrase"])
            authority = "{0}/ca-{1}".format(directory, found.issuer), wish["passphrase"]
        return Issuer(self).issue(wish["names"], wish["usage"], wish["days"], authority)


def _checked(wish: t.Any) -> dict[str, t.Any]:
    outcome = ArgumentSpecValidator(ISSUE).validate(dict(wish))
    if outcome.error_messages:
        raise DaskError("issue: {0}".format("; ".join(outcome.error_messages)))
    return dict(outcome.validated_parameters)
