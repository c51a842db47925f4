#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: conda_environment
short_description: A conda environment from a lock
version_added: 0.1.0
author:
  - The flotilla.dask contributors (@flotilla)
description:
  - Makes a conda environment that has exactly the packages of a lock, for the platform of the host. Nothing is solved.
  - Packages are verified by the lock's hashes and hard-linked from a cache. The result is a normal conda environment,
    which C(conda activate) takes; conda itself is not needed.
  - An environment is complete or not there. What an interrupted run left is made anew, and what is complete never
    changes,
    so that a lock that changed wants another O(path).
options:
  lock:
    description: Lock file on the controller, conda-lock's YAML or a list that starts with C(@EXPLICIT).
    type: path
  packages:
    description: The packages, as M(flotilla.dask.conda_lock) returns them, instead of O(lock).
    type: list
    elements: dict
  interpreter:
    description: A Python on the host that has py-rattler. By default the one that runs this module.
    type: path
    default: ""
  mirror:
    description: Directory or address that has the packages of conda channels as C(CHANNEL/SUBDIR/FILE), where they
      are fetched.
    type: str
    default: ""
  replaces:
    description: An environment to compare with, for the result and the diff.
    type: path
    default: ""
extends_documentation_fragment:
  - flotilla.dask.attributes
  - flotilla.dask.environments
requirements:
  - py-rattler 0.28.0 on the host, for O(interpreter)
seealso:
  - module: flotilla.dask.conda_lock
  - module: flotilla.dask.venv_environment
"""

EXAMPLES = r"""
- name: Make a Python that has py-rattler
  flotilla.dask.venv_environment:
    path: /opt/lab/rattler
    cache: /opt/lab/cache
    requirements: [py-rattler==0.28.0]

- name: Install the lab's environment
  flotilla.dask.conda_environment:
    path: /opt/lab/analysis-2026-11
    lock: analysis-lock.yml
    cache: /opt/lab/cache
    interpreter: /opt/lab/rattler/bin/python
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

import sys

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.flotilla.dask.plugins.module_utils._conda import conda_environment
from ansible_collections.flotilla.dask.plugins.module_utils._environments import shared_arguments
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **shared_arguments(),
            "lock": {"type": "path"},
            "packages": {"type": "list", "elements": "dict"},
            "interpreter": {"type": "path", "default": ""},
            "mirror": {"type": "str", "default": ""},
            "replaces": {"type": "path", "default": ""},
        },
        required_one_of=[("lock", "packages")],
        supports_check_mode=True,
    )
    options = {**module.params, "interpreter": module.params["interpreter"] or sys.executable}
    try:
        outcome = conda_environment(options, module.check_mode)
    except DaskError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**outcome)


if __name__ == "__main__":
    main()
