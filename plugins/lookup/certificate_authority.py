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
    description: What the authorities' keys are encrypted with. One that doesn't fit is refused.
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
      which are C(trusted), the names of the C(clients) that have a certificate, and the lines that say which
      certificates are C(revoked).
  type: list
  elements: dict
"""

import contextlib
import os
import re
import typing as t

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.plugin_utils.revocation import Record

with contextlib.suppress(ImportError):  # ansible-core brings it along, but not where ansible-test imports plugins
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

NAME = re.compile(r"ca-([1-9][0-9]*)")


def read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read().strip()


def complete(directory: str) -> list[int]:
    """Returns the numbers of the authorities that are complete, the oldest first."""
    names = os.listdir(directory) if os.path.isdir(directory) else []
    numbers = [int(match.group(1)) for match in map(NAME.fullmatch, names) if match]
    return sorted(number for number in numbers if os.path.exists(os.path.join(directory, f"ca-{number}", "ca.crt")))


def clients(directory: str) -> list[str]:
    """Returns the names of the clients that have a certificate."""
    place = os.path.join(directory, "clients")
    names = os.listdir(place) if os.path.isdir(place) else []
    return sorted(name for name in names if os.path.exists(os.path.join(place, name, "client.crt")))


def revoked(directory: str) -> list[str]:
    """:raises AnsibleLookupError: the list of what was issued isn't readable."""
    try:
        return Record(directory).revoked
    except (DaskError, OSError) as error:
        raise AnsibleLookupError(str(error)) from error


def check_passphrase(path: str, passphrase: str) -> None:
    """:raises AnsibleLookupError: the key isn't there, or the passphrase isn't the key's."""
    try:
        with open(path, "rb") as file:
            load_pem_private_key(file.read(), passphrase.encode())
    except (OSError, ValueError, TypeError) as error:
        raise AnsibleLookupError(
            f"dask_certificates_passphrase does not open {path} ({type(error).__name__}). Allowed: the passphrase that "
            "the cluster's authority was made with. If it is lost, remove the authority's directory; the next run of "
            "flotilla.dask.site makes a new one, and every host and client gets a new certificate."
        ) from error


def authorities(directory: str, passphrase: str | None) -> dict[str, t.Any]:
    """Returns what the lookup returns for one directory."""
    numbers = complete(directory)
    issuer = NAME.fullmatch(os.path.basename(os.path.realpath(os.path.join(directory, "issuer"))))
    issuing = int(issuer.group(1)) if issuer and int(issuer.group(1)) in numbers else 0
    certificates = {number: read(os.path.join(directory, f"ca-{number}", "ca.crt")) for number in numbers}
    if issuing and passphrase is not None:
        check_passphrase(os.path.join(directory, f"ca-{issuing}", "ca.key"), passphrase)
    return {
        "numbers": numbers,
        "issuer": issuing,
        "certificate": certificates.get(issuing, ""),
        "trusted": "\n".join(certificates.values()),
        "clients": clients(directory),
        "revoked": revoked(directory),
    }


class LookupModule(LookupBase):
    """Reads the authorities of clusters."""

    def run(
        self, terms: list[str], variables: dict[str, t.Any] | None = None, **kwargs: t.Any
    ) -> list[dict[str, t.Any]]:
        self.set_options(var_options=variables, direct=kwargs)
        passphrase = self.get_option("passphrase")
        return [authorities(os.path.expanduser(str(term)), passphrase) for term in terms]
