# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the role gives hosts is what processes read."""

from __future__ import annotations

import typing as t
from pathlib import Path

import certificates
import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from ansible_collections.flotilla.dask.plugins.module_utils._in_process import revoked_certificates

VARIABLES = Path(__file__).parents[3] / "roles" / "dask_certificates" / "vars" / "main.yml"
AUTHORITY = certificates.authority().certificate_text.strip()
LINES = ["Revoked: {0:X} {1}".format(number, name) for number, name in enumerate(["zoe", "alice", "bob"], 30)]


@pytest.mark.parametrize("revoked", [LINES, LINES[:1], []], ids=len)
def test_hosts_trust_the_authorities_and_know_of_every_revocation_in_its_order(revoked: list[str]) -> None:
    loader = DataLoader()
    variables: dict[str, t.Any] = dict(loader.load_from_file(str(VARIABLES), trusted_as_template=True))
    variables["_dask_certificates_authority"] = {"trusted": AUTHORITY, "revoked": revoked}
    templar = Templar(loader=loader, variables=variables)
    text = templar.template(trust_as_template("{{ _dask_certificates_trust }}"))
    assert text == "\n".join([AUTHORITY, *revoked])
    assert list(revoked_certificates(text).values()) == [line.split()[-1] for line in revoked]
