#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dask_certificates_info
short_description: Waits until running processes use the certificates that are installed (internal)
version_added: 0.1.0
author:
  - The flotilla.dask contributors (@flotilla)
description:
  - Processes load certificates, authorities and revocations by themselves when the files change. This module connects
    to every port of them, as any client does, until each shows the installed certificate and trusts exactly the
    installed authorities.
  - A process that does not run is left out. It loads what is installed when it starts.
  - Only the roles of this collection use it.
options:
  authorities:
    description: File with the certificates of the authorities.
    type: path
    required: true
  identity:
    description: File with the host's key and certificate.
    type: path
    required: true
  processes:
    description: The plan's C(processes).
    type: list
    elements: dict
    required: true
  wait:
    description: Seconds that the processes may take. The task fails if one does not use the certificates by then.
    type: float
    default: 60
extends_documentation_fragment:
  - flotilla.dask.attributes
  - flotilla.dask.attributes.info
"""

EXAMPLES = r"""
- name: Wait until running processes use the certificates that are installed
  flotilla.dask.dask_certificates_info:
    authorities: "{{ dask_common_plan.directories.authorities }}"
    identity: "{{ dask_common_plan.directories.identity }}"
    processes: "{{ dask_common_plan.processes }}"
"""

RETURN = r"""
served:
  description: Ports at which the installed certificates are in use.
  returned: success
  type: list
  elements: str
  sample: ["worker-cpu-0 (nanny port 9100 of 10.0.0.5)"]
silent:
  description: Ports that nobody listens on.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._served import Installed, comm_ports, wait_until_served


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "authorities": {"type": "path", "required": True},
            "identity": {"type": "path", "required": True},
            "processes": {"type": "list", "elements": "dict", "required": True},
            "wait": {"type": "float", "default": 60},
        },
        supports_check_mode=True,
    )
    try:
        installed = Installed(module.params["authorities"], module.params["identity"])
        served, silent = wait_until_served(installed, comm_ports(module.params["processes"]), module.params["wait"])
    except DaskError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, served=served, silent=silent)


if __name__ == "__main__":
    main()
