#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: venv_environment
short_description: A virtual environment from a lock
version_added: 0.1.0
author:
  - The flotilla.dask contributors (@flotilla)
description:
  - Makes a virtual environment that has exactly the packages of a lock, for the host's Python. They are verified by
    the lock's hashes, installed by uv and hard-linked from a cache. The host needs Python, and nothing else from its
    system. The controller sends uv.
  - An environment is complete or not there. What an interrupted run left is made anew; so is one whose packages
    changed.
options:
  python:
    description: The Python that makes the environment.
    type: str
    default: python3
  packages:
    description: What to install, as M(flotilla.dask.venv_lock) returns it in C(lock.packages).
    type: list
    elements: dict
  requirements:
    description: What to install, as pip's requirements, instead of O(packages). The controller finds out what that is.
    type: list
    elements: str
  constraints:
    description: Versions to keep to with O(requirements), as the text of a constraints file of pip.
    type: str
    default: ""
  replaces:
    description: An environment to compare with, for the result and the diff.
    type: path
    default: ""
extends_documentation_fragment:
  - flotilla.dask.attributes
  - flotilla.dask.environments
notes:
  - With O(download_on=controller) every package has to have a wheel. Without, the host builds those that have none, and
    fetches what it builds them with from the index.
requirements:
  - uv 0.13.9 in the environment that Ansible runs from
seealso:
  - module: flotilla.dask.venv_lock
  - module: flotilla.dask.conda_environment
"""

EXAMPLES = r"""
- name: Make an environment on hosts that have no way out
  flotilla.dask.venv_environment:
    path: /opt/lab/tools
    cache: /opt/lab/cache
    requirements: [supervisor==4.3.0]
    download_on: controller
"""

RETURN = r"""
sent:
  description: Names of the files that the controller sent.
  returned: success
  type: list
  elements: str
packages:
  description: Which packages are C(added), C(removed) and C(changed) in comparison with O(replaces).
  returned: success
  type: dict
  sample: {added: ["cryptography 50.0.2"], changed: ["toolz 1.1.0 -> 1.2.0"], removed: []}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.flotilla.dask.plugins.module_utils._environments import shared_arguments
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._venv import venv_environment


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **shared_arguments(),
            "python": {"type": "str", "default": "python3"},
            "packages": {"type": "list", "elements": "dict"},
            "requirements": {"type": "list", "elements": "str"},
            "constraints": {"type": "str", "default": ""},
            "replaces": {"type": "path", "default": ""},
        },
        required_one_of=[("packages", "requirements")],
        supports_check_mode=True,
    )
    try:
        outcome = venv_environment(module.params, module.check_mode)
    except DaskError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**outcome)


if __name__ == "__main__":
    main()
