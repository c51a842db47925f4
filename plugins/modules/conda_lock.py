#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: conda_lock
short_description: A lock file from an environment.yml
version_added: 0.1.0
author:
  - The flotilla.dask contributors (@flotilla)
description:
  - Solves an C(environment.yml), with its part C(pip), for all platforms that hosts have, into a lock file in
    conda-lock's
    YAML. Meant for the controller, and for a file that is kept under version control.
  - A lock that fits is left alone. It is solved anew when the meaning of the C(environment.yml) changes, for a
    platform that
    it lacks, or on demand, and then stays with the versions that it has where that is possible.
options:
  path:
    description: The lock file.
    type: path
    required: true
  file:
    description:
      - The C(environment.yml), with C(channels) and C(dependencies). Directories of channels are meant from where it
        is.
      - Without one the lock has to be there, and is read only. Then a list that starts with C(@EXPLICIT) is taken too.
    type: path
    default: ""
  platforms:
    description: Platforms that the lock has to have, such as V(linux-64). Others that it has stay.
    type: list
    elements: str
    required: true
  also:
    description:
      - Requirements that the environment has to meet whatever O(file) says. One is left out where O(file) names its
        package itself, for conda or for pip.
    type: list
    elements: str
    default: []
extends_documentation_fragment:
  - flotilla.dask.attributes
  - flotilla.dask.locks
requirements:
  - py-rattler 0.28.0, and for a part C(pip) uv 0.13.9, in the environment that runs the module
"""

EXAMPLES = r"""
- name: Lock the lab's environment
  flotilla.dask.conda_lock:
    file: "{{ inventory_dir }}/environment.yml"
    path: "{{ inventory_dir }}/.dask/analysis-lock.yml"
    platforms: [linux-64, linux-aarch64]
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
      description: The platforms.
      type: list
      elements: str
      returned: success
    packages:
      description: C(name), C(version), C(platform), C(manager), C(url), C(md5) and C(sha256) of each package.
      type: list
      elements: dict
      returned: success
packages:
  description: For each platform which packages are C(added), C(removed) and C(changed).
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._solver import conda_lock
from ansible_collections.flotilla.dask.plugins.module_utils._uv_solver import LOCK_ARGUMENTS


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "file": {"type": "path", "default": ""},
            "platforms": {"type": "list", "elements": "str", "required": True},
            "also": {"type": "list", "elements": "str", "default": []},
            **LOCK_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    try:
        outcome = conda_lock(module.params, module.check_mode)
    except DaskError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**outcome)


if __name__ == "__main__":
    main()
