#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dask_identity
short_description: Gives a host its private key and certificate (internal)
version_added: 0.1.0
author:
  - The flotilla.dask contributors (@flotilla)
description:
  - Writes the certificates of the authorities that the host trusts, and its private key with its certificate, in one
    module execution. Each file is written under a temporary name that only its owner can read, and then renamed.
  - Follows no link that others than root can have made.
  - With O(issue) the key is made in the controller's memory. It is sent through a pipe, also where pipelining is off in
    Ansible's configuration. So it is in no temporary file of the controller or the host, in no log, no diff, no result.
  - Where the connection or the become method has no pipelining, as with C(su), or with C(ANSIBLE_KEEP_REMOTE_FILES),
    Ansible sends modules as files.
  - Only the roles of this collection use it.
options:
  path:
    description: The file for the private key and its certificate.
    type: path
    default: ""
  key:
    description: A private key as PEM text. Made on the controller with O(issue).
    type: str
    default: ""
  certificate:
    description: Its certificate as PEM text; empty to leave O(path) as it is.
    type: str
    default: ""
  certificate_path:
    description: A file for the certificate alone that everybody can read; empty for none.
    type: path
    default: ""
  owner:
    description: Account that O(path) belongs to; empty for the user that the task runs as.
    type: str
    default: ""
  group:
    description: Group of O(path); empty for that of the user that the task runs as.
    type: str
    default: ""
  mode:
    description: Mode of O(path).
    type: str
    default: "0400"
  authorities_path:
    description: The file for the certificates of the authorities that the host trusts; empty to leave it as it is.
    type: path
    default: ""
  authorities:
    description: Those certificates as PEM text.
    type: str
    default: ""
  issue:
    description: The certificate to make on the controller, instead of O(key) and O(certificate).
    type: dict
    suboptions:
      names:
        description: Host names and addresses that it is for.
        type: list
        elements: str
        required: true
      usage:
        description: What it is for, V(serverAuth) or V(clientAuth).
        type: list
        elements: str
        required: true
      days:
        description: For how many days it is good.
        type: int
        required: true
      directory:
        description: Directory on the controller with the authority that issues it. Without it the key signs itself.
        type: path
      passphrase:
        description: What the authority's key is encrypted with.
        type: str
extends_documentation_fragment:
  - flotilla.dask.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: The diff shows certificates, and no key.
  idempotent:
    support: partial
    details: With O(issue) every run makes another key.
"""

EXAMPLES = r"""
- name: Install the host's key with its certificate
  flotilla.dask.dask_identity:
    path: /etc/dask/main/tls/host.pem
    owner: dask
    issue:
      names: [worker1, 10.0.0.5]
      usage: [serverAuth, clientAuth]
      days: 365
      directory: "{{ inventory_dir }}/.dask/certificates/main"
      passphrase: "{{ dask_certificates_passphrase }}"
"""

RETURN = r"""
certificate:
  description: The certificate that was written. In check mode with O(issue), words in its place.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._identity import ISSUE, install


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": ""},
            "key": {"type": "str", "no_log": True, "default": ""},
            "certificate": {"type": "str", "default": ""},
            "certificate_path": {"type": "path", "default": ""},
            "owner": {"type": "str", "default": ""},
            "group": {"type": "str", "default": ""},
            "mode": {"type": "str", "default": "0400"},
            "authorities_path": {"type": "path", "default": ""},
            "authorities": {"type": "str", "default": ""},
            "issue": {"type": "dict", "options": ISSUE},
        },
        supports_check_mode=True,
    )
    try:
        outcome = install(module.params, module.check_mode)
    except (DaskError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**outcome)


if __name__ == "__main__":
    main()
