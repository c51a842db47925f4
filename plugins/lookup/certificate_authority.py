# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: certificate_authority
short_description: The authorities that a cluster's certificates come from
version_added: 0.1.0
author:
  - The flotilla.dask contributors (@flotilla)
description:
  - Reads the directory on the controller that the role P(flotilla.dask.dask_certificates#role) keeps. Each authority is
    a directory C(ca-N) with C(ca.crt) and the encrypted C(ca.key); the link C(issuer) points to the one that issues.
  - Between two authorities, while one takes over from the other, both are trusted.
options:
  _terms:
    description: The directory. One that doesn't exist has no authorities.
    required: true
    type: list
    elements: path
  passphrase:
    description:
      - What the authorities' keys are encrypted with. One that does not fit is refused, and so is a key that is not
        that of the authority's certificate.
    type: str
"""

EXAMPLES = r"""
- name: Show what the cluster trusts
  ansible.builtin.debug:
    msg: "{{ lookup('flotilla.dask.certificate_authority', inventory_dir ~ '/certificates/main').trusted }}"
"""

RETURN = r"""
_raw:
  description:
    - For each directory the C(numbers) of its authorities, the oldest first, the number of the C(issuer) and the
      issuer's C(certificate) (V(0) and empty if none issues yet), the certificates of all authorities as one PEM text,
      which are C(trusted), the names of the C(clients) that have a certificate, the lines that say which
      certificates are C(revoked), and the SHA-256 fingerprints of the authorities that are C(known), also of those
      that were removed.
  type: list
  elements: dict
"""

import os
import typing as t

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.plugin_utils.authority import check_key, read


def authorities(directory: str, passphrase: str | None) -> dict[str, t.Any]:
    """Returns what the lookup returns for one directory.

    :raises AnsibleLookupError: the directory is refused, or its authority cannot issue with this passphrase.
    """
    try:
        found = read(directory)
        if found.issuer and passphrase is not None:
            check_key(directory, found.issuer, passphrase)
    except (DaskError, OSError) as error:
        raise AnsibleLookupError(str(error)) from error
    return found.as_dict()


class LookupModule(LookupBase):
    """Reads the authorities of clusters."""

    def run(
        self, terms: list[str], variables: dict[str, t.Any] | None = None, **kwargs: t.Any
    ) -> list[dict[str, t.Any]]:
        self.set_options(var_options=variables, direct=kwargs)
        passphrase = self.get_option("passphrase")
        return [authorities(os.path.abspath(os.path.expanduser(str(term))), passphrase) for term in terms]
