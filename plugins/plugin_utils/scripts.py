# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Brings a script along from the controller (private to this collection)."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase


def with_script(action: ActionBase, options: dict[str, t.Any]) -> dict[str, t.Any]:
    """Returns a task's options with the ``content`` of its ``script``, unless that is on the host.

    :raises AnsibleActionFail: there is no such file on the controller.
    """
    path = options.get("script")
    if not path or options.get("content") is not None or boolean(options.get("remote_src", False)):
        return options
    try:
        content = str(action._loader.get_text_file_contents(action._find_needle("files", path)))
    except AnsibleError as error:
        raise AnsibleActionFail(
            "script: '{0}' is refused: no such file on the controller ({1}). With 'remote_src: true' it is looked "
            "for on the host.".format(path, error)
        ) from error
    return {**options, "content": content}
