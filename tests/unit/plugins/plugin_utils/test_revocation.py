# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whoever was ever given a certificate can be revoked, by all of them, and nobody else."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import certificates
import pytest

from ansible_collections.flotilla.dask.plugins.lookup.certificate_authority import authorities
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._in_process import revoked_certificates
from ansible_collections.flotilla.dask.plugins.plugin_utils.authority import RECORD, Keeper, Maker

AUTHORITY = certificates.authority()


def give(directory: Path, name: str) -> str:
    """Gives a client a bundle that is on no list yet, and returns the certificate's serial number."""
    identity = certificates.issue(AUTHORITY, [name])
    (directory / "ca-1").mkdir(exist_ok=True)
    (directory / "ca-1" / "ca.crt").write_text(AUTHORITY.certificate_text)
    (directory / "clients" / name).mkdir(parents=True, exist_ok=True)
    (directory / "clients" / name / "client.crt").write_text(identity.certificate_text)
    return "{0:X}".format(identity.certificate.serial_number)


def revoke(directory: Path, name: str, check_mode: bool = False) -> Keeper:
    keeper = Keeper(str(directory), t.cast("Maker", None), check_mode=check_mode, wait=10)
    keeper.revoke(name)
    return keeper


def revoked(directory: Path) -> dict[str, str]:
    """What the processes of the cluster make of it."""
    return revoked_certificates("\n".join(authorities(str(directory), None)["revoked"]))


def everything(directory: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*")}


def test_all_certificates_of_a_client_are_revoked_once_and_its_bundle_goes(tmp_path: Path) -> None:
    other = give(tmp_path, "bob")
    first = give(tmp_path, "alice")
    assert revoked(tmp_path) == {}
    kept = revoke(tmp_path, "alice")
    assert revoked(tmp_path) == {first: "alice"} == revoked_certificates("\n".join(kept.found.revoked))
    assert [path.name for path in (tmp_path / "clients").iterdir()] == ["bob"]
    before = (tmp_path / RECORD).read_text()
    assert revoke(tmp_path, "alice").changes == []
    assert (tmp_path / RECORD).read_text() == before
    assert other not in revoked(tmp_path)


def test_who_is_revoked_gets_a_new_bundle_which_can_be_revoked_too(tmp_path: Path) -> None:
    old = give(tmp_path, "alice")
    revoke(tmp_path, "alice")
    new = give(tmp_path, "alice")
    assert set(revoked(tmp_path)) == {old}
    assert revoke(tmp_path, "alice").changes
    assert set(revoked(tmp_path)) == {old, new}


@pytest.mark.parametrize("name", ["mallory", "", "../alice", "clients", "Alice"])
def test_somebody_unknown_is_refused_and_nothing_is_touched(tmp_path: Path, name: str) -> None:
    give(tmp_path, "alice")
    before = everything(tmp_path)
    with pytest.raises(DaskError, match=r"dask_client_name: .* is refused: .* Allowed: alice\."):
        revoke(tmp_path, name)
    assert everything(tmp_path) == before
    with pytest.raises(DaskError, match="nobody has a certificate"):
        revoke(tmp_path / "nowhere", "alice")


def test_check_mode_tells_what_a_run_would_do_and_does_nothing(tmp_path: Path) -> None:
    serial = give(tmp_path, "alice")
    before = everything(tmp_path)
    predicted = revoke(tmp_path, "alice", check_mode=True)
    assert revoked_certificates("\n".join(predicted.found.revoked)) == {serial: "alice"}
    assert everything(tmp_path) == before
    assert revoke(tmp_path, "alice").changes[-1] == predicted.changes[-1]


def test_what_a_run_left_that_was_killed_in_between_is_mended(tmp_path: Path) -> None:
    give(tmp_path, "alice")
    bundle = (tmp_path / "clients" / "alice" / "client.crt").read_text()
    revoke(tmp_path, "alice")
    (tmp_path / "clients" / "alice").mkdir()
    (tmp_path / "clients" / "alice" / "client.crt").write_text(bundle)
    revoke(tmp_path, "alice")
    assert not (tmp_path / "clients" / "alice").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"bundles": 1}', '{"bundles": [{"name": "alice"}]}', '{"bundles": [7]}'])
def test_a_list_that_is_damaged_is_not_taken_for_one_on_which_nobody_is(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(DaskError, match=r"issued\.json is refused"):
        revoke(tmp_path, "alice")


def test_what_others_write_in_the_list_stays(tmp_path: Path) -> None:
    give(tmp_path, "alice")
    revoke(tmp_path, "alice")
    give(tmp_path, "alice")
    record = json.loads((tmp_path / RECORD).read_text())
    record["bundles"][0]["note"] = "of the lab"
    (tmp_path / RECORD).write_text(json.dumps(record))
    revoke(tmp_path, "alice")
    after = json.loads((tmp_path / RECORD).read_text())
    assert after["authorities"] == record["authorities"]
    assert after["bundles"][0] == record["bundles"][0]
