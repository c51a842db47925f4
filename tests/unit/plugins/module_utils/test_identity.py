# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host's key and certificate as files, on a disk where others have been before."""

from __future__ import annotations

import os
import pwd
import typing as t
from pathlib import Path

import certificates
import pytest

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._identity import install

OURS = certificates.issue(certificates.authority(), ["worker1"])


def options(directory: Path, **changes: t.Any) -> dict[str, t.Any]:
    return {
        "path": str(directory / "tls" / "host.pem"),
        "key": OURS.key_text(),
        "certificate": OURS.certificate_text,
        "certificate_path": "",
        "owner": "",
        "group": "",
        "mode": "0400",
        "authorities_path": str(directory / "tls" / "ca.crt"),
        "authorities": "the authorities\n",
        **changes,
    }


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_key_and_certificate_are_one_file_that_its_owner_alone_reads(tmp_path: Path) -> None:
    predicted = install(options(tmp_path), check_mode=True)
    assert list(tmp_path.iterdir()) == []
    made = install(options(tmp_path), check_mode=False)
    assert made == predicted
    assert made["changed"]
    identity, authorities = tmp_path / "tls" / "host.pem", tmp_path / "tls" / "ca.crt"
    assert identity.read_text() == OURS.key_text() + OURS.certificate_text
    assert (mode(identity), mode(authorities), mode(identity.parent)) == (0o400, 0o644, 0o755)
    assert "PRIVATE KEY" not in str(made)
    assert made["diff"][1]["after"] == OURS.certificate_text
    assert install(options(tmp_path), check_mode=False)["changed"] is False


def test_only_the_authorities_change_where_there_is_no_certificate_to_install(tmp_path: Path) -> None:
    install(options(tmp_path), check_mode=False)
    again = install(options(tmp_path, key="", certificate="", authorities="others\n"), check_mode=False)
    assert [each["after_header"] for each in again["diff"]] == [str(tmp_path / "tls" / "ca.crt")]
    assert (tmp_path / "tls" / "host.pem").read_text() == OURS.key_text() + OURS.certificate_text


def test_a_diff_shows_no_key_also_where_the_file_has_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls" / "host.pem").write_text(OURS.key_text())
    assert "PRIVATE KEY" not in str(install(options(tmp_path), check_mode=True))


def test_a_mode_that_was_changed_is_mended(tmp_path: Path) -> None:
    install(options(tmp_path), check_mode=False)
    (tmp_path / "tls" / "host.pem").chmod(0o644)
    assert install(options(tmp_path), check_mode=False)["changed"]
    assert mode(tmp_path / "tls" / "host.pem") == 0o400


def test_a_certificate_alone_is_written_for_everybody(tmp_path: Path) -> None:
    path = tmp_path / "tls" / "certificate.pem"
    install(options(tmp_path, certificate_path=str(path), mode="0440"), check_mode=False)
    assert path.read_text() == OURS.certificate_text
    assert (mode(path), mode(tmp_path / "tls" / "host.pem")) == (0o444, 0o440)


@pytest.mark.usefixtures("as_root")
def test_the_key_belongs_to_the_account_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    rename = os.rename

    def look(source: str, *arguments: t.Any, **words: t.Any) -> None:
        status = os.stat(source, dir_fd=words["src_dir_fd"])
        seen.append((status.st_uid, status.st_mode & 0o777))
        rename(source, *arguments, **words)

    monkeypatch.setattr(os, "rename", look)
    install(options(tmp_path, owner="nobody"), check_mode=False)
    assert seen[1] == (pwd.getpwnam("nobody").pw_uid, 0o400)


@pytest.mark.usefixtures("as_root")
def test_a_link_that_others_made_is_not_followed(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "theirs"):
        path.mkdir(exist_ok=True)
    os.chown(tmp_path / "theirs", 65534, 65534)
    (tmp_path / "target").mkdir()
    (tmp_path / "theirs" / "tls").symlink_to(tmp_path / "target")
    with pytest.raises(DaskError, match="Root follows no link"):
        install(options(tmp_path / "theirs"), check_mode=False)
    assert list((tmp_path / "target").iterdir()) == []


@pytest.mark.parametrize("option", ["owner", "group"])
def test_an_account_that_is_not_there_is_refused_but_where_it_would_have_been_made(tmp_path: Path, option: str) -> None:
    missing = options(tmp_path, **{option: "nobody-of-that-name"})
    with pytest.raises(DaskError, match=r"not found: .*nobody-of-that-name.*flotilla.dask.site"):
        install(missing, check_mode=False)
    assert install(missing, check_mode=True)["changed"]
    assert list(tmp_path.iterdir()) == []
