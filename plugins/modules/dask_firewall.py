#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dask_firewall
short_description: Puts the firewall table of a cluster in force on a host, without locking anybody out
version_added: 0.1.0
author:
  - The flotilla.dask contributors (@flotilla)
description:
  - Makes the nftables table C(inet dask_CLUSTER) of a host what the given rules say, now and after a reboot. Touches no
    other table.
  - Rules that nft refuses change nothing. Rules that it takes are loaded at once, and are taken back after
    O(confirm_seconds) unless Ansible confirms them over a new connection, which this task does by itself. A run that
    ends before, or rules that keep Ansible out, leave the host as it was.
  - The unit that loads the rules at boot is written when they are confirmed.
options:
  cluster:
    description: Name of the cluster.
    type: str
    required: true
  rules:
    description:
      - The ruleset, as nft loads it. It has to delete the table before it defines it, as it is loaded more than once.
      - Required with O(state=present).
    type: str
  unit:
    description:
      - The systemd unit C(dask-CLUSTER-firewall.service), which loads C(/etc/dask-firewall/CLUSTER.nft) at boot.
      - Required with O(state=present).
    type: str
  confirm_seconds:
    description: After how many seconds rules that are not confirmed are taken back.
    type: int
    default: 60
  state:
    description:
      - With V(present) exactly these rules are in force.
      - With V(confirmed) rules that wait for it are kept. A task with V(present) does this itself.
      - With V(absent) nothing of the firewall is left, except the programs of nftables.
    type: str
    choices: [present, confirmed, absent]
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
notes:
  - Needs root, systemd as process 1, and nft.
  - An action plugin confirms the rules.
"""

EXAMPLES = r"""
- name: Put the rules in force
  flotilla.dask.dask_firewall:
    cluster: main
    rules: "{{ lookup('ansible.builtin.template', 'table.nft.j2') }}"
    unit: "{{ lookup('ansible.builtin.template', 'firewall.service.j2') }}"

- name: Take the firewall away
  flotilla.dask.dask_firewall:
    cluster: main
    state: absent
"""

RETURN = r"""
unconfirmed:
  description: In how many seconds the rules are taken back, V(0) where none wait to be confirmed.
  returned: success
  type: int
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._firewall_table import dask_firewall


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "cluster": {"type": "str", "required": True},
            "rules": {"type": "str"},
            "unit": {"type": "str"},
            "confirm_seconds": {"type": "int", "default": 60},
            "state": {"type": "str", "choices": ["present", "confirmed", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ("rules", "unit"))],
        supports_check_mode=True,
    )
    try:
        outcome = dask_firewall(module.params, module.check_mode)
    except DaskError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**outcome)


if __name__ == "__main__":
    main()
