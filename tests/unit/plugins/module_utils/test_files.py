# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files are reached over no link that others may have made, and are never seen half written."""

from __future__ import annotations

import os
import stat
import typing as t
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.flotilla.dask.plugins.module_utils import _files
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._exclusive import exclusive
from ansible_collections.flotilla.dask.plugins.module_utils._files import (
    directory_status,
    make_directory,
    names_in,
    opened,
    read_text,
    remove_tree,
    status,
    write_text,
)

TOUCHES: list[t.Callable[[str], object]] = [
    directory_status,
    lambda path: exclusive(path + "/file", 0, "it").__enter__(),
    make_directory,
    names_in,
    lambda path: read_text(path + "/file"),
    lambda path: remove_tree(path + "/file"),
    lambda path: status(path + "/file"),
    lambda path: write_text(path + "/file", "changed"),
]
"""What is done to a directory, or to a file in it."""


def test_what_is_written_is_read_back_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    assert read_text(str(path)) is None
    write_text(str(path), "old")
    write_text(str(path), "née\n", mode=0o600)
    assert read_text(str(path)) == "née\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_text(str(path), "half of it" * 10_000 + "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that everybody can write to, as root sees it."""
    path = tmp_path / "shared"
    path.mkdir()
    path.chmod(0o1777)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return path


@pytest.mark.parametrize("touch", TOUCHES)
@pytest.mark.parametrize("below", ["", "/inner"])
def test_root_follows_no_link_in_a_directory_that_others_can_write_to(
    shared: Path, tmp_path: Path, touch: t.Callable[[str], object], below: str
) -> None:
    target = tmp_path / "target"
    (target / "inner").mkdir(parents=True)
    (target / "file").write_text("secret")
    before = target.stat()
    (shared / "link").symlink_to(target)
    with pytest.raises(DaskError, match="a directory that others than root can write to"):
        touch(f"{shared}/link{below}")
    assert (target / "file").read_text() == "secret"
    assert (target.stat().st_mode, target.stat().st_uid) == (before.st_mode, before.st_uid)
    assert sorted(os.listdir(target)) == ["file", "inner"]


def test_root_reads_no_file_over_a_link_that_others_can_have_made(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (shared / "output.log").symlink_to(tmp_path / "secret")
    with pytest.raises(DaskError, match="a directory that others than root can write to"):
        read_text(str(shared / "output.log"))


@pytest.mark.parametrize("absolute", [True, False])
def test_links_that_nobody_else_can_have_made_are_followed(tmp_path: Path, absolute: bool) -> None:
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" if absolute else Path("..", tmp_path.name, "real"))
    write_text(str(tmp_path / "link" / "inner" / "file"), "text")
    assert (tmp_path / "real" / "inner" / "file").read_text() == "text"
    (tmp_path / "file").symlink_to(tmp_path / "real" / "inner" / "file")
    assert read_text(str(tmp_path / "file")) == "text"


def test_a_link_that_leads_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DaskError, match="leads to itself"):
        directory_status(str(tmp_path / "loop"))
    with pytest.raises(DaskError, match="leads to itself"):
        read_text(str(tmp_path / "loop"))


def test_what_is_no_directory_is_refused_as_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "fifo")
    for name in ("file", "fifo"):
        with pytest.raises(DaskError, match="is not a directory"), opened(str(tmp_path / name / "inner")):
            pass


def test_what_is_no_regular_file_is_refused_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    for name in ("fifo", "directory"):
        with pytest.raises(DaskError, match="not a regular file"):
            read_text(str(tmp_path / name))


def test_a_file_is_written_in_the_place_of_a_link_and_not_through_it(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    write_text(str(tmp_path / "link"), "new")
    assert (tmp_path / "target").read_text() == "old"
    assert not (tmp_path / "link").is_symlink()


def test_a_tree_is_removed_and_what_its_links_lead_to_stays(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("kept")
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "link").symlink_to(tmp_path / "kept")
    os.mkfifo(tree / "a" / "fifo")
    (tree / os.fsdecode(b"\xff")).write_text("a name that is not UTF-8")
    assert remove_tree(str(tree))
    assert not remove_tree(str(tree))
    assert (tmp_path / "kept" / "file").read_text() == "kept"
    (tmp_path / "link").symlink_to("kept")
    assert remove_tree(str(tmp_path / "link"))
    assert (tmp_path / "kept" / "file").read_text() == "kept"


def test_making_a_directory_says_which_were_missing_and_gives_it_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    assert make_directory(str(path), 0o750) == [str(path.parent), str(path)]
    assert make_directory(str(path), 0o755) == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


@given(st.lists(st.sampled_from(["a", "b", "..", ".", "", "to-a", "to-root"]), max_size=8))
@settings(max_examples=2000, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_path_leads_where_the_kernel_says(tmp_path: Path, parts: list[str]) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True, exist_ok=True)
    for place in (tmp_path, tmp_path / "a"):
        if not (place / "to-a").is_symlink():
            (place / "to-a").symlink_to(tmp_path / "a")
            (place / "to-root").symlink_to("/")
    path = "/".join([str(tmp_path), *parts])
    try:
        expected: os.stat_result | None = os.stat(path)
    except FileNotFoundError:
        expected = None
    found = directory_status(path)
    assert (found and (found.st_dev, found.st_ino)) == (expected and (expected.st_dev, expected.st_ino))


@pytest.mark.usefixtures("as_root")
def test_a_directory_above_that_somebody_makes_meanwhile_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    above = tmp_path / "above"
    above.mkdir(mode=0o700)
    os.chown(above, 12345, 12345)
    real = _files.directory_status
    monkeypatch.setattr(_files, "directory_status", lambda path: None if path == str(above) else real(path))
    with pytest.raises(DaskError, match="above is refused: it belongs to account number 12345"):
        _files.make_directory(str(above / "below"), take={0})
    assert (above.stat().st_uid, above.stat().st_mode & 0o777, list(above.iterdir())) == (12345, 0o700, [])
