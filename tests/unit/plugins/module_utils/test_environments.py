# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the controller sent is unpacked as files of the one who unpacks it, and nothing else."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

from ansible_collections.flotilla.dask.plugins.module_utils._environments import unpack


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
