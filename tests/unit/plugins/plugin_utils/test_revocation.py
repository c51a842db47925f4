# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whoever was ever given a certificate can be revoked, by all of them, and nobody else."""

from __future__ import annotations

import json
from pathlib import Path

import certificates
import pytest

from ansible_collections.flotilla.dask.plugins.lookup.certificate_authority import authorities
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._in_process import revoked_certificates
from ansible_collections.flotilla.dask.plugins.plugin_utils.revocation import RECORD, note, revoke

AUTHORITY = certificates.authority()


def give(directory: Path, name: str) -> str:
    """Gives a client a bundle as the role does, and returns the certificate's serial number."""
    identity = certificates.issue(AUTHORITY, [name])
    assert note(str(directory), name, identity.certificate_text, check_mode=False)
    (directory / "clients" / name).mkdir(parents=True, exist_ok=True)
    (directory / "clients" / name / "client.crt").write_text(identity.certificate_text)
    return "{0:X}".format(identity.certificate.serial_number)


def revoked(directory: Path) -> dict[str, str]:
    """What the processes of the cluster make of it."""
    return revoked_certificates("\n".join(authorities(str(directory), None)["revoked"]))


def test_all_certificates_of_a_client_are_revoked_once_and_its_bundle_goes(tmp_path: Path) -> None:
    first, other, second = (give(tmp_path, name) for name in ("alice", "bob", "alice"))
    assert revoked(tmp_path) == {}
    record, changes = revoke(str(tmp_path), "alice", check_mode=False)
    assert len(changes) == 2
    assert revoked(tmp_path) == {first: "alice", second: "alice"} == revoked_certificates("\n".join(record.revoked))
    assert [path.name for path in (tmp_path / "clients").iterdir()] == ["bob"]
    before = (tmp_path / RECORD).read_text()
    assert revoke(str(tmp_path), "alice", check_mode=False)[1] == []
    assert (tmp_path / RECORD).read_text() == before
    assert other not in revoked(tmp_path)


def test_who_is_revoked_gets_a_new_bundle_which_can_be_revoked_too(tmp_path: Path) -> None:
    old = give(tmp_path, "alice")
    revoke(str(tmp_path), "alice", check_mode=False)
    new = give(tmp_path, "alice")
    assert set(revoked(tmp_path)) == {old}
    assert revoke(str(tmp_path), "alice", check_mode=False)[1]
    assert set(revoked(tmp_path)) == {old, new}


def test_a_bundle_that_is_on_no_list_is_revoked_too(tmp_path: Path) -> None:
    serial = give(tmp_path, "alice")
    (tmp_path / RECORD).unlink()
    revoke(str(tmp_path), "alice", check_mode=False)
    assert revoked(tmp_path) == {serial: "alice"}


@pytest.mark.parametrize("name", ["mallory", "", "../alice", "clients", "Alice"])
def test_somebody_unknown_is_refused_and_nothing_is_touched(tmp_path: Path, name: str) -> None:
    give(tmp_path, "alice")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(DaskError, match=r"dask_client_name: .* is refused: .* Allowed: alice\."):
        revoke(str(tmp_path), name, check_mode=False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with pytest.raises(DaskError, match="nobody has a certificate"):
        revoke(str(tmp_path / "nowhere"), "alice", check_mode=False)


def test_check_mode_tells_what_a_run_would_do_and_does_nothing(tmp_path: Path) -> None:
    serial = give(tmp_path, "alice")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    record, changes = revoke(str(tmp_path), "alice", check_mode=True)
    assert record.revoked == ["Revoked: {0} alice".format(serial)]
    assert [change["after"] != change["before"] for change in changes] == [True, True]
    certificate = certificates.issue(AUTHORITY, ["bob"]).certificate_text
    assert note(str(tmp_path), "bob", certificate, check_mode=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("text", ["{", "[]", '{"bundles": 1}', '{"bundles": [{"name": "alice"}]}', '{"bundles": [7]}'])
def test_a_list_that_is_damaged_is_not_taken_for_one_on_which_nobody_is(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(DaskError, match=r"issued\.json is refused"):
        revoke(str(tmp_path), "alice", check_mode=False)


def test_what_others_write_in_the_list_stays(tmp_path: Path) -> None:
    give(tmp_path, "alice")
    record = json.loads((tmp_path / RECORD).read_text())
    record["authorities"].append({"name": "ca-1", "fingerprint": "AB:CD"})
    record["bundles"][0]["note"] = "of the lab"
    (tmp_path / RECORD).write_text(json.dumps(record))
    revoke(str(tmp_path), "alice", check_mode=False)
    after = json.loads((tmp_path / RECORD).read_text())
    assert after["authorities"] == record["authorities"]
    assert after["bundles"][0].pop("revoked")
    assert after["bundles"] == record["bundles"]
