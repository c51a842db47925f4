#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dask_host
short_description: Configures a host for a cluster (internal)
version_added: 0.1.0
author:
  - The flotilla.dask contributors (@flotilla)
description:
  - Makes the account, the directories and the files that a cluster has on a host, in one module execution.
  - Follows no link that others than root can have made, and refuses a directory that belongs to somebody else, or that
    is not empty and that it did not make.
  - Marks the directories that it makes, or records them where processes could change a mark. With O(state=absent) it
    removes those, and with the last cluster of the host the account, whose processes it ends first.
  - Only the roles of this collection use it.
options:
  cluster:
    description: Name of the cluster.
    type: str
    required: true
  account:
    description:
      - Account that the processes run as, made where there is none. Empty for the user that the task runs as.
      - One that the collection did not make is used as it is, and never removed.
    type: str
    default: ""
  directories:
    description: The plan's C(directories).
    type: dict
    required: true
  writable:
    description: Directories that processes write to. They belong to O(account).
    type: list
    elements: path
    default: []
  files:
    description: Files that everybody can read, and their text.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where the file is.
        type: path
        required: true
      content:
        description: The text.
        type: str
        required: true
  readers:
    description:
      - Accounts of the host that may read the pages of the cluster's processes. Their numbers are written to a file
        which the processes read.
      - An account that is not there is left out, with a warning.
    type: list
    elements: str
    default: []
  keep:
    description: Directories that stay where O(state=absent), with the account, unless they are empty.
    type: list
    elements: path
    default: []
  state:
    description:
      - With V(claimed) the cluster's own directories are there and carry a mark, and nothing else is made.
      - With V(present) the host has all of it, and with V(absent) nothing.
    type: str
    choices: [claimed, present, absent]
    default: present
extends_documentation_fragment:
  - flotilla.dask.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
"""

EXAMPLES = r"""
- name: Configure the host
  flotilla.dask.dask_host:
    cluster: main
    account: dask
    directories: "{{ dask_common_plan.directories }}"
    writable: "{{ dask_common_plan.writable }}"
"""

RETURN = r"""
account:
  description: Numbers of O(account) and of its group; empty where there is none.
  returned: success
  type: str
  sample: "998:998"
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._host import configure


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "cluster": {"type": "str", "required": True},
            "account": {"type": "str", "default": ""},
            "directories": {"type": "dict", "required": True},
            "writable": {"type": "list", "elements": "path", "default": []},
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str", "required": True},
                },
            },
            "readers": {"type": "list", "elements": "str", "default": []},
            "keep": {"type": "list", "elements": "path", "default": []},
            "state": {"type": "str", "choices": ["claimed", "present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    try:
        outcome = configure(module.params, module.check_mode)
    except (DaskError, OSError) as error:
        module.fail_json(msg=str(error))
    for name in outcome.pop("unknown"):
        module.warn(
            "Account {0} is not on this host. It can read pages of the cluster after a run that finds it.".format(name)
        )
    module.exit_json(**outcome)


if __name__ == "__main__":
    main()
