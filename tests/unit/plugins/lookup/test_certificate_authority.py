# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

import certificates
import pytest
from ansible.errors import AnsibleLookupError

from ansible_collections.flotilla.dask.plugins.lookup.certificate_authority import authorities

PASSPHRASE = "correct horse battery"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Two authorities, of which the first issues, and a third that was not finished."""
    for number in (1, 2):
        directory = tmp_path / f"ca-{number}"
        directory.mkdir()
        identity = certificates.authority(str(number))
        (directory / "ca.crt").write_text(identity.certificate_text)
        (directory / "ca.key").write_text(identity.key_text(PASSPHRASE))
    (tmp_path / "ca-3").mkdir()
    (tmp_path / "issuer").symlink_to("ca-1")
    return tmp_path


def test_all_complete_authorities_are_trusted_and_one_issues(kept: Path) -> None:
    found = authorities(str(kept), PASSPHRASE)
    texts = [(kept / f"ca-{number}" / "ca.crt").read_text().strip() for number in (1, 2)]
    assert (found["numbers"], found["issuer"], found["certificate"]) == ([1, 2], 1, texts[0])
    assert found["trusted"] == "\n".join(texts)


def test_an_interrupted_creation_leaves_nobody_who_issues(kept: Path) -> None:
    (kept / "issuer").unlink()
    assert authorities(str(kept), PASSPHRASE)["issuer"] == 0
    (kept / "issuer").symlink_to("ca-3")
    assert authorities(str(kept), PASSPHRASE)["issuer"] == 0


def test_a_directory_that_does_not_exist_has_none(tmp_path: Path) -> None:
    found = authorities(str(tmp_path / "nowhere"), PASSPHRASE)
    assert (found["numbers"], found["issuer"], found["trusted"], found["clients"]) == ([], 0, "", [])


def test_a_wrong_passphrase_is_refused_and_not_shown(kept: Path) -> None:
    with pytest.raises(AnsibleLookupError, match="dask_certificates_passphrase") as refusal:
        authorities(str(kept), "a guess of mine")
    assert "a guess of mine" not in str(refusal.value)


def test_only_clients_with_a_certificate_count(kept: Path) -> None:
    for name in ("alice", "bob"):
        (kept / "clients" / name).mkdir(parents=True)
    (kept / "clients" / "alice" / "client.crt").touch()
    assert authorities(str(kept), None)["clients"] == ["alice"]
