# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the controller sends is kept once, and what killed runs left goes."""

from __future__ import annotations

import os
import signal
import tarfile
import time
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.plugin_utils import supplies
from ansible_collections.flotilla.dask.plugins.plugin_utils.supplies import one_at_a_time, packed


def everything(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_runs_share_an_archive_and_one_that_nobody_uses_goes(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (tmp_path / "uv").write_text("program")
    first = packed({"uv-1": str(tmp_path / "uv")}, str(cache))
    with tarfile.open(first) as tar:
        assert tar.getnames() == ["uv-1"]
    assert packed({"uv-1": str(tmp_path / "uv")}, str(cache)) == first
    (tmp_path / "uv").write_text("another")
    second = packed({"uv-2": str(tmp_path / "uv")}, str(cache))
    assert sorted(os.listdir(cache / "archives")) == sorted(map(os.path.basename, (first, second)))
    long_ago = time.time() - supplies.ARCHIVE_SECONDS - 1
    os.utime(first, (long_ago, long_ago))
    assert packed({"uv-2": str(tmp_path / "uv")}, str(cache)) == second
    assert os.listdir(cache / "archives") == [os.path.basename(second)]


def test_what_a_killed_run_left_is_gone_with_the_next(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for _number in range(3):
        ready, say = os.pipe()
        child = os.fork()
        if not child:
            with one_at_a_time(str(cache)) as work:
                Path(work, "half").write_bytes(b"x" * 1000)
                os.write(say, b".")
                signal.pause()
        os.read(ready, 1)
        assert everything(cache) == [".lock", ".work/half"]
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with one_at_a_time(str(cache)) as work:
        assert os.listdir(work) == []
    assert everything(cache) == [".lock"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), one_at_a_time(str(tmp_path)) as work:
        Path(work).read_text()
    assert everything(tmp_path) == [".lock"]
    assert not (tmp_path / ".work").exists()
