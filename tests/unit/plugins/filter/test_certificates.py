# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import certificates
import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.flotilla.dask.plugins.filter.certificates import (
    certificate_due,
    certificate_problem,
    unknown_authorities,
)
from ansible_collections.flotilla.dask.plugins.plugin_utils.authority import fingerprints

NAMES = ["worker1", "10.0.0.5"]
OURS = certificates.authority()


def due(days: float = 365, names: list[str] | None = None, by: certificates.Identity = OURS) -> str:
    found = certificates.issue(by, names or NAMES, days)
    return certificate_due(found.certificate_text, OURS.certificate_text, NAMES, 30)


def test_a_good_certificate_is_left_alone() -> None:
    assert due() == ""
    assert due(names=["10.0.0.5", "worker1"]) == ""


def test_a_certificate_is_renewed_ahead_of_its_expiry_and_after_it() -> None:
    assert due(days=31) == ""
    assert due(days=29).startswith("it expires on ")
    assert due(days=-1).startswith("it expires on ")


def test_a_certificate_of_another_authority_is_replaced_also_where_that_has_the_same_name() -> None:
    assert due(by=certificates.authority()) == "another authority issued it"
    assert due(by=certificates.authority("stranger")) == "another authority issued it"


@pytest.mark.parametrize("names", [["worker2", "10.0.0.5"], ["worker1", "10.0.0.6"], ["worker1"]])
def test_a_certificate_for_other_names_is_replaced(names: list[str]) -> None:
    assert due(names=names) == "it is for other names"


def test_where_there_is_none_one_is_issued() -> None:
    assert certificate_due("", OURS.certificate_text, NAMES, 30) == "there is none"
    assert certificate_due("", "", NAMES, 30) == "there is none"


def test_of_a_certificate_that_is_there_nobody_says_that_there_is_none() -> None:
    found = certificates.issue(OURS, NAMES).certificate_text
    assert certificate_due(found, "", NAMES, 30) == "another authority issued it"


def test_what_is_not_a_certificate_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="PEM"):
        certificate_due("nonsense", OURS.certificate_text, NAMES, 30)


def test_a_certificate_that_browsers_would_refuse_is_refused_in_words() -> None:
    good, other, expired = (certificates.issue(OURS, ["gateway"], days) for days in (10, 10, -1))
    assert certificate_problem(good.certificate_text, good.key_text()) == ""
    assert certificate_problem(good.certificate_text, other.key_text()) == "the key is another certificate's"
    assert certificate_problem(expired.certificate_text, expired.key_text()).startswith("it expired on ")
    assert "isn't a certificate" in certificate_problem("nothing", good.key_text())
    assert "isn't a private key" in certificate_problem(good.certificate_text, "nothing")
    assert "without a passphrase" in certificate_problem(good.certificate_text, good.key_text("secret words"))


def test_a_host_that_trusts_none_of_the_known_authorities_is_named() -> None:
    other, ours = certificates.authority(), OURS.certificate_text
    trusted = {
        "new": "",
        "same": ours,
        "rotating": other.certificate_text + "\n" + ours,
        "foreign": other.certificate_text,
        "damaged": "-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----",
    }
    assert unknown_authorities(trusted, fingerprints(ours)) == ["foreign"]
    assert unknown_authorities(trusted, []) == ["same", "rotating", "foreign"]
