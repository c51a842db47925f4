#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dask_generation
short_description: Completes a generation of an environment and makes it the current one
version_added: 0.1.0
author:
  - The flotilla.dask contributors (@flotilla)
description:
  - A generation is a directory C(NAME-FINGERPRINT) for one content of an environment. This module installs the
    plugins into
    it, writes its record, which says that it is complete, and swaps the link C(current) beside it.
  - Removes generations that were interrupted, and old ones beyond a number, but none that a process runs from.
options:
  prefix:
    description: The environment's prefix, where it isn't O(path) itself.
    type: path
    default: ""
  content:
    description: What the generation is made from, for the record.
    type: dict
    required: true
  plugins:
    description: Plugins as P(flotilla.dask.plugin_sources#lookup) returns them.
    type: list
    elements: dict
    default: []
  plugin_directory:
    description: Directory in O(path) that plugins are installed into.
    type: path
    default: ""
  keep:
    description: How many generations to keep, the current one among them.
    type: int
    default: 3
  resolved:
    description: The wheels that the controller chose. Set by the action plugin.
    type: list
    elements: dict
extends_documentation_fragment:
  - flotilla.dask.attributes
  - flotilla.dask.environments
"""

EXAMPLES = r"""
- name: Complete the environment
  flotilla.dask.dask_generation:
    path: "{{ dask_common_plan.environment.generation }}"
    cache: "{{ dask_common_plan.directories.software }}/cache"
    content: "{{ dask_common_plan.environment.content }}"
"""

RETURN = r"""
sent:
  description: Names of the files that the controller sent.
  returned: success
  type: list
  elements: str
current:
  description: What C(current) points to.
  returned: success
  type: str
removed:
  description: Names of the generations that were removed.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.flotilla.dask.plugins.module_utils._environments import shared_arguments
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._generations import dask_generation


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **shared_arguments(),
            "prefix": {"type": "path", "default": ""},
            "content": {"type": "dict", "required": True},
            "plugins": {"type": "list", "elements": "dict", "default": []},
            "plugin_directory": {"type": "path", "default": ""},
            "keep": {"type": "int", "default": 3},
            "resolved": {"type": "list", "elements": "dict"},
        },
        supports_check_mode=True,
    )
    try:
        outcome = dask_generation(module.params, module.check_mode)
    except DaskError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**outcome)


if __name__ == "__main__":
    main()
