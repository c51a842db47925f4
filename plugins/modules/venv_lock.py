#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: venv_lock
short_description: A lock file from requirements
version_added: 0.1.0
author:
  - The flotilla.dask contributors (@flotilla)
description:
  - Solves requirements of Python packages by uv, for all platforms, into a C(pylock.toml), which uv and pip read too.
    Meant for the controller, and for a file that is kept under version control.
  - A lock that fits is left alone. It is solved anew when the requirements or constraints change, for an older Python,
    or on demand, and then stays with the versions that it has where that is possible.
  - A lock that was made elsewhere, by uv or pip, is taken as it is.
options:
  path:
    description: The lock file. uv and pip take names such as C(pylock.toml) and C(pylock.NAME.toml).
    type: path
    required: true
  requirements:
    description: What is asked for, as pip's requirements without options.
    type: list
    elements: str
    required: true
  also:
    description: Requirements to add where O(requirements) does not name their package.
    type: list
    elements: str
    default: []
  constraints:
    description: Versions to keep to, as the text of a constraints file of pip.
    type: str
    default: ""
  pythons:
    description: The interpreters that files are chosen for.
    type: list
    elements: dict
    required: true
    suboptions:
      version:
        description: The full version.
        type: str
        required: true
      platform:
        description: What conda calls the platform, such as V(linux-64).
        type: str
        required: true
      libc:
        description: The version of the GNU C library; empty where it is unknown.
        type: str
        default: ""
  sources:
    description: Whether a package that has no wheel for an interpreter may be built there from its source.
    type: bool
    default: false
extends_documentation_fragment:
  - flotilla.dask.attributes
  - flotilla.dask.locks
requirements:
  - uv 0.13.9 and Python 3.11 or newer in the environment that runs the module
seealso:
  - module: flotilla.dask.venv_environment
  - module: flotilla.dask.conda_lock
"""

EXAMPLES = r"""
- name: Lock the lab's packages
  flotilla.dask.venv_lock:
    path: "{{ inventory_dir }}/.dask/pylock.lab.toml"
    requirements: [dask, distributed, xarray]
    pythons:
      - version: 3.13.5
        platform: linux-64
        libc: "2.41"
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
lock:
  description: What the file says, or would.
  returned: success
  type: dict
  contains:
    digest:
      description: Identifies the content.
      type: str
      returned: success
    platforms:
      description: The interpreters, in words such as C(linux-64, Python 3.13.5, glibc 2.41).
      type: list
      elements: str
      returned: success
    packages:
      description: C(name), C(version), C(platform), C(manager), C(url) and C(sha256) of each file that each needs.
      type: list
      elements: dict
      returned: success
packages:
  description: For each interpreter which packages are C(added), C(removed) and C(changed).
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._uv_solver import LOCK_ARGUMENTS, venv_lock


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "requirements": {"type": "list", "elements": "str", "required": True},
            "also": {"type": "list", "elements": "str", "default": []},
            "constraints": {"type": "str", "default": ""},
            "pythons": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "version": {"type": "str", "required": True},
                    "platform": {"type": "str", "required": True},
                    "libc": {"type": "str", "default": ""},
                },
            },
            "sources": {"type": "bool", "default": False},
            **LOCK_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    try:
        outcome = venv_lock(module.params, module.check_mode)
    except DaskError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**outcome)


if __name__ == "__main__":
    main()
