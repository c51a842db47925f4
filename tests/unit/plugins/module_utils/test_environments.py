# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the controller sent is unpacked as files of the one who unpacks it, and nothing else."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils._environments import read_record, unpack, workplace
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError


def test_files_belong_to_who_unpacks_them_and_nothing_else_is_unpacked(tmp_path: Path) -> None:
    archive = tmp_path / "supplies.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("pip.whl", "../outside"):
            file = tarfile.TarInfo(name)
            file.size, file.uid, file.gid, file.uname, file.gname = 1, 12345, 12345, "nobody", "nogroup"
            tar.addfile(file, io.BytesIO(b"x"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    directory = tmp_path / "work"
    directory.mkdir()
    supplies = unpack(str(archive), str(directory))
    assert sorted(os.listdir(directory)) == ["outside", "pip.whl"]
    assert {os.stat(path).st_uid for path in directory.iterdir()} == {os.geteuid()}
    assert supplies.path("pip.whl")
    assert supplies.path("link") == ""
    assert not archive.exists()


@pytest.mark.usefixtures("as_root")
def test_a_cache_of_another_account_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    os.chown(tmp_path / "cache", 12345, 12345)
    with pytest.raises(DaskError, match="it belongs to account number 12345"), workplace(str(tmp_path / "cache")):
        pass


def test_directories_are_for_everybody_to_read_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with workplace(str(tmp_path / "opt" / "main" / "cache")):
            pass
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_dir()} == {0o755}


@pytest.mark.parametrize("text", ["", "1", '"x"', "{}", "[]", "{", '{"packages": []}'])
def test_a_record_that_says_nothing_is_that_of_an_interrupted_run(tmp_path: Path, text: str) -> None:
    (tmp_path / "packages.json").write_text(text)
    assert read_record(str(tmp_path)) is None
    (tmp_path / "packages.json").write_bytes(b"\xff\xfe")
    assert read_record(str(tmp_path)) is None
