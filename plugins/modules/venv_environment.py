#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: venv_environment
short_description: A virtual environment from requirements
version_added: 0.1.0
author:
  - The flotilla.dask contributors (@flotilla)
description:
  - Makes a virtual environment with packages that uv installs. The host needs Python, and nothing else from its
    system. The controller sends uv.
  - An environment is complete or not there. What an interrupted run left is made anew; so is one whose requirements
    changed.
options:
  python:
    description: The Python that makes the environment.
    type: str
    default: python3
  requirements:
    description: What to install, as pip's requirements.
    type: list
    elements: str
    required: true
  constraints:
    description: Versions to keep to, as the text of a constraints file of pip.
    type: str
    default: ""
  replaces:
    description: An environment to compare with, for the result and the diff.
    type: path
    default: ""
  resolved:
    description: The wheels that the controller chose. Set by the action plugin.
    type: list
    elements: dict
extends_documentation_fragment:
  - flotilla.dask.attributes
  - flotilla.dask.environments
notes:
  - With O(download_on=controller) every package has to have a wheel.
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
            "requirements": {"type": "list", "elements": "str", "required": True},
            "constraints": {"type": "str", "default": ""},
            "replaces": {"type": "path", "default": ""},
            "resolved": {"type": "list", "elements": "dict"},
        },
        supports_check_mode=True,
    )
    try:
        outcome = venv_environment(module.params, module.check_mode, module._diff)
    except DaskError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**outcome)


if __name__ == "__main__":
    main()
