# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: run
short_description: What identifies a run of Ansible (internal)
version_added: 0.1.0
author:
  - The flotilla.dask contributors (@flotilla)
description:
  - Returns text that is the same everywhere in one run of Ansible, and another one in every other run.
  - Roles tell by it what a host said in this run from what a fact cache has of an earlier one.
options:
  _terms:
    description: Takes none.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Ask a host once in a run
  flotilla.dask.dask_host_facts:
    cluster: main
  when: ansible_facts['dask_host'].run | default('') != lookup('flotilla.dask.run')
"""

RETURN = r"""
_raw:
  description: One text.
  type: list
  elements: str
"""

import typing as t

from ansible.plugins.lookup import LookupBase

from ansible_collections.flotilla.dask.plugins.plugin_utils.runs import run_token


class LookupModule(LookupBase):
    """Says which run this is."""

    def run(self, terms: list[str], variables: dict[str, t.Any] | None = None, **kwargs: t.Any) -> list[str]:
        del terms, variables, kwargs
        return [run_token()]
