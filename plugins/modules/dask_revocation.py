#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dask_revocation
short_description: Keeps the list of certificates that were issued to clients, and revokes them (internal)
version_added: 0.1.0
author:
  - The flotilla.dask contributors (@flotilla)
description:
  - Keeps C(issued.json) in the directory on the controller that has a cluster's authority. It lists every certificate
    that a client was ever given, and which of them are revoked.
  - Runs on the controller, whatever host the task is for.
  - Only the roles of this collection use it.
options:
  directory:
    description: The directory.
    type: path
    required: true
  client:
    description: Name of the client.
    type: str
    required: true
  certificate:
    description: The client's new certificate as PEM. Required with O(state=issued).
    type: str
  state:
    description:
      - With V(issued) the certificate is on the list.
      - With V(revoked) every certificate that O(client) was ever given is revoked, and its bundle is removed. A client
        that was never given one is refused.
    type: str
    choices: [issued, revoked]
    required: true
extends_documentation_fragment:
  - flotilla.dask.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
notes:
  - An action plugin does all of it.
"""

EXAMPLES = r"""
- name: Revoke all certificates of a client
  flotilla.dask.dask_revocation:
    directory: "{{ inventory_dir }}/.dask/certificates/main"
    client: alice
    state: revoked
"""

RETURN = r"""
revoked:
  description: The lines by which the processes of the cluster know what is revoked.
  returned: success
  type: list
  elements: str
  sample: ["Revoked: 5F03A9 alice"]
"""
