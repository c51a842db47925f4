#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dask_authority
short_description: Keeps a cluster's certificate authority on the controller (internal)
version_added: 0.1.0
author:
  - The flotilla.dask contributors (@flotilla)
description:
  - Makes the authority and the clients' bundles in a directory on the controller, and renews bundles ahead of their
    expiry. It runs on the controller, whatever the task's host is, and touches no host.
  - Certificates are made by C(community.crypto).
  - Only one run at a time changes the directory. Another one waits; then it is refused, with the process, the host and
    the time of the run that holds the lock. A run that ends, however it ends, lets go of the lock.
  - A run that is killed leaves no key beside another one's certificate. The next run completes what was begun.
  - The file C(issued.json) lists every authority and bundle that was ever made, with its name, serial number, SHA-256
    fingerprint, and the times when it was issued and when it expires. It stays when the authority is removed.
  - Only the roles of this collection use it.
options:
  directory:
    description: The directory on the controller.
    type: path
    required: true
  cluster:
    description: Name of the cluster.
    type: str
    required: true
  scheduler:
    description: Address of the scheduler, for the clients' configuration.
    type: str
    default: ""
  passphrase:
    description: What the authority's key is encrypted with.
    type: str
    default: ""
  phase:
    description: As O(ignore:dask_certificates_phase) of the role P(flotilla.dask.dask_certificates#role).
    type: str
    choices: [keep, renew, trust, issue, retire]
    default: keep
  days:
    description: For how many days a client's certificate is good.
    type: int
    default: 365
  renew_days:
    description: How many days before its expiry a certificate is renewed.
    type: int
    default: 30
  authority_days:
    description: For how many days an authority is good.
    type: int
    default: 3650
  clients:
    description: Names of those who are to have a bundle, or none any more. Other bundles stay as they are.
    type: list
    elements: str
    default: []
  template:
    description: The template of the clients' configuration.
    type: str
    default: client.yaml.j2
  wait:
    description: For how many seconds to wait for another run that changes the directory.
    type: int
    default: 600
  state:
    description:
      - With V(revoked) every certificate that O(clients) were ever given is marked in C(issued.json) as revoked, and
        their bundles are removed.
      - With V(absent) the authorities and bundles are removed, and C(issued.json) stays.
    type: str
    choices: [present, revoked, absent]
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
- name: Keep the authority
  flotilla.dask.dask_authority:
    directory: "{{ inventory_dir }}/.dask/certificates/main"
    cluster: main
    scheduler: tls://scheduler.lab.example:8786
    passphrase: "{{ dask_certificates_passphrase }}"
    clients: [alice]
"""

RETURN = r"""
authority:
  description:
    - What the directory has now, as the lookup P(flotilla.dask.certificate_authority#lookup) returns it. In check mode
      what it would have, with words in the place of certificates that are not made yet.
  returned: success
  type: dict
"""
