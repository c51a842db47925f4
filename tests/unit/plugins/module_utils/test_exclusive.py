# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One lock for all that only one run may do at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._exclusive import exclusive


def test_who_holds_a_lock_has_it_alone_and_nobody_else_can_open_it(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.write_text("before")
    path.chmod(0o644)
    with exclusive(str(path), 0, "The cache"):
        assert path.stat().st_mode & 0o777 == 0o600
        words = f"The cache is in use by another run: process {os.getpid()} on host"
        with pytest.raises(DaskError, match=words), exclusive(str(path), 0, "The cache"):
            pass
    with exclusive(str(path), 0, "The cache"):
        pass


def test_no_lock_is_made_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(DaskError, match="not a regular file"), exclusive(str(tmp_path / ".lock"), 0, "The cache"):
        pass
    assert (tmp_path / "precious").read_text() == "precious"
