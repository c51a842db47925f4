# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host gets what a cluster needs and nothing else, and loses exactly that again."""

from __future__ import annotations

import copy
import json
import os
import pwd
import stat
import typing as t
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils import _files, _host
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._files import directory_status, remove_tree
from ansible_collections.flotilla.dask.plugins.module_utils._host import Host, configure
from ansible_collections.flotilla.dask.plugins.module_utils.launch.layout import layout

Options = t.Dict[str, t.Any]


@pytest.fixture
def options(tmp_path: Path) -> Options:
    """A user's cluster with a local directory of its own."""
    place = layout("main", "user", "", str(tmp_path))
    (tmp_path / "scratch").mkdir()
    return {
        "cluster": "main",
        "account": "",
        "directories": place.as_dict(),
        "writable": [place.state, str(tmp_path / "scratch" / "dask-main")],
        "files": [
            {"path": place.in_process + "/module.py", "content": "x = 1\n"},
            {"path": place.description, "content": "{}\n"},
        ],
        "readers": ["root"],
        "keep": [],
        "state": "present",
    }


def everything(directory: Path) -> dict[str, tuple[int, str]]:
    """Mode and content of all that is below a directory."""
    return {
        str(path.relative_to(directory)): (path.lstat().st_mode, path.read_text() if path.is_file() else "")
        for path in sorted(directory.rglob("*"))
    }


def changed(options: Options, check_mode: bool = False) -> bool:
    outcome = configure(options, check_mode)
    assert bool(outcome["diff"]) == outcome["changed"]
    return bool(outcome["changed"])


def test_check_mode_predicts_and_the_second_run_changes_nothing(options: Options, tmp_path: Path) -> None:
    before = everything(tmp_path)
    predicted = configure(options, check_mode=True)
    assert everything(tmp_path) == before
    assert configure(options, check_mode=False) == predicted
    assert everything(tmp_path)[".dask/main/etc/python/module.py"] == (stat.S_IFREG | 0o644, "x = 1\n")
    assert everything(tmp_path)["scratch/dask-main"][0] == stat.S_IFDIR | 0o755
    assert not changed(options)
    assert not changed(options, check_mode=True)


@pytest.mark.parametrize("name", ["var/jobs", "etc/pipelines"])
def test_a_directory_of_jobs_or_stages_that_others_can_enter_is_closed(
    options: Options, tmp_path: Path, name: str
) -> None:
    assert changed(options)
    jobs = tmp_path / ".dask" / "main" / name
    jobs.mkdir()
    jobs.chmod(0o755)
    predicted = configure(options, check_mode=True)
    assert stat.S_IMODE(jobs.stat().st_mode) == 0o755
    assert configure(options, check_mode=False) == predicted
    assert stat.S_IMODE(jobs.stat().st_mode) == 0o700
    assert not changed(options)
    jobs.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    elsewhere.chmod(0o755)
    jobs.symlink_to(elsewhere)
    assert not changed(options)
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o755


def test_removal_takes_what_was_made_and_nothing_else(options: Options, tmp_path: Path) -> None:
    before = everything(tmp_path)
    assert changed(options)
    (tmp_path / ".dask" / "main" / "var" / "written").write_text("by a process")
    options["state"] = "absent"
    after_deployment = everything(tmp_path)
    assert changed(options, check_mode=True)
    assert everything(tmp_path) == after_deployment
    assert changed(options)
    assert everything(tmp_path) == before
    assert not changed(options)


@pytest.mark.parametrize(
    ("place", "state"),
    [
        (".dask/main", "claimed"),
        (".dask/main", "present"),
        (".dask/main", "absent"),
        ("scratch/dask-main", "present"),
    ],
)
def test_a_directory_with_something_in_it_that_nothing_of_ours_made_is_refused(
    options: Options, tmp_path: Path, place: str, state: str
) -> None:
    theirs = tmp_path / place
    theirs.mkdir(parents=True)
    (theirs / "data").write_text("theirs")
    before = everything(tmp_path)
    with pytest.raises(DaskError, match=f"{place} is refused: it is not empty, and nothing of this collection made it"):
        configure({**options, "state": state}, check_mode=False)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("place", [".dask/main", "scratch/dask-main"])
@pytest.mark.parametrize("names", [[], ["lost+found"]], ids=["empty", "a new file system"])
def test_an_empty_directory_is_taken_and_stays_when_the_cluster_goes(
    options: Options, tmp_path: Path, place: str, names: list[str]
) -> None:
    for name in ["", *names]:
        (tmp_path / place / name).mkdir(parents=True, exist_ok=True)
    before = everything(tmp_path)
    assert changed(options)
    assert not changed(options)
    (tmp_path / "scratch" / "dask-main" / "spilled").mkdir()
    options["state"] = "absent"
    assert changed(options)
    assert everything(tmp_path) == before
    assert not changed(options)


def test_a_directory_of_another_cluster_is_refused(options: Options) -> None:
    assert changed(options)
    with pytest.raises(DaskError, match="main is refused: it belongs to cluster 'main'"):
        configure({**options, "cluster": "other"}, check_mode=False)


def test_a_directory_that_was_removed_by_hand_and_made_again_by_somebody_stays(
    options: Options, tmp_path: Path
) -> None:
    assert changed(options)
    remove_tree(str(tmp_path / ".dask" / "main"))
    (tmp_path / ".dask" / "main").mkdir()
    (tmp_path / ".dask" / "main" / "thesis.tex").write_text("theirs")
    with pytest.raises(DaskError, match="nothing of this collection made it"):
        configure({**options, "state": "absent"}, check_mode=False)
    assert (tmp_path / ".dask" / "main" / "thesis.tex").exists()


def test_what_is_to_be_kept_survives_a_removal_and_the_next_deployment(options: Options, tmp_path: Path) -> None:
    jobs = tmp_path / ".dask" / "main" / "var" / "jobs"
    absent = {**options, "state": "absent", "keep": [str(jobs)]}
    assert changed(options)
    (jobs / "count").mkdir(parents=True)
    (jobs / "count" / "result.json").write_text("42")
    (tmp_path / "scratch" / "dask-main" / "spilled").write_text("x")
    assert changed(absent)
    left = [name for name, found in everything(tmp_path).items() if stat.S_ISREG(found[0])]
    assert left == [
        ".dask/.flotilla-dask",
        ".dask/main/.flotilla-dask",
        ".dask/main/etc/created.json",
        ".dask/main/var/jobs/count/result.json",
    ]
    assert not changed(absent)
    assert changed(options)
    assert (jobs / "count" / "result.json").read_text() == "42"
    assert not changed(options)
    assert changed({**absent, "keep": []})
    assert everything(tmp_path) == {"scratch": everything(tmp_path)["scratch"]}


@pytest.mark.parametrize("what", ["link", "file", "empty"])
def test_nothing_is_kept_that_is_no_directory_with_something_in_it(options: Options, tmp_path: Path, what: str) -> None:
    assert changed(options)
    jobs = tmp_path / ".dask" / "main" / "var" / "jobs"
    {"link": lambda: jobs.symlink_to("/etc"), "file": jobs.touch, "empty": jobs.mkdir}[what]()
    assert changed({**options, "state": "absent", "keep": [str(jobs)]})
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]
    assert os.path.exists("/etc/passwd")


@pytest.mark.parametrize(("mode", "refused"), [(0o777, True), (0o775, True), (0o1777, False), (0o757, True)])
def test_a_directory_is_refused_below_one_that_others_can_write_to(
    options: Options, tmp_path: Path, mode: int, refused: bool
) -> None:
    (tmp_path / "scratch").chmod(mode)
    if refused:
        with pytest.raises(DaskError, match=r"dask-main is refused: others than .* can write to .*/scratch above it"):
            configure(options, check_mode=False)
        assert not (tmp_path / ".dask").exists()
    else:
        assert changed(options)


def test_a_mounted_file_system_is_not_emptied(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert changed(options)
    mounted = tmp_path / ".dask" / "main" / "var" / "data set"
    mounted.mkdir()
    (mounted / "measured").touch()
    monkeypatch.setattr(_files, "_mount_points", lambda: ["/", str(mounted)])
    with pytest.raises(DaskError, match=r"file systems are mounted in it: .*/data set"):
        configure({**options, "state": "absent"}, check_mode=False)
    assert (mounted / "measured").exists()


def test_a_local_directory_that_is_no_longer_declared_goes_with_the_cluster(options: Options, tmp_path: Path) -> None:
    assert changed(options)
    options["writable"] = options["writable"][:1]
    assert not changed(options)
    options["state"] = "absent"
    assert changed(options)
    assert everything(tmp_path / "scratch") == {}


def test_another_cluster_beside_it_keeps_the_directory_above(options: Options, tmp_path: Path) -> None:
    assert changed(options)
    (tmp_path / ".dask" / "other").mkdir()
    options["state"] = "absent"
    assert changed(options)
    assert sorted(everything(tmp_path / ".dask")) == [".flotilla-dask", "other"]


@pytest.mark.parametrize("state", ["present", "absent"])
def test_a_run_that_was_interrupted_anywhere_is_completed_by_the_next(
    options: Options, tmp_path: Path, state: str
) -> None:
    before = everything(tmp_path)
    absent = {**options, "state": "absent"}
    if state == "absent":
        assert changed(options)
    deployed = copy.deepcopy(everything(tmp_path))
    for done in range(20):
        host = Host(options)
        steps = host.plan_present() if state == "present" else host.plan_absent()
        for step in steps[:done]:
            step.do()
        assert changed(options if state == "present" else absent) == (done < len(steps))
        if state == "present":
            assert changed(absent)
            assert everything(tmp_path) == before
        else:
            assert everything(tmp_path) == before
            assert changed(options)
            assert everything(tmp_path) == deployed


def test_changed_files_and_modes_are_mended(options: Options, tmp_path: Path) -> None:
    assert changed(options)
    wanted = everything(tmp_path)
    (tmp_path / ".dask" / "main" / "etc" / "python" / "module.py").chmod(0o600)
    (tmp_path / ".dask" / "main" / "etc" / "cluster.json").write_text("other")
    (tmp_path / ".dask" / "main" / "var").chmod(0o777)
    assert len(configure(options, check_mode=False)["diff"]) == 3
    assert everything(tmp_path) == wanted


def test_a_link_where_a_directory_is_to_be_is_refused(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch").chmod(0o1777)
    (tmp_path / "theirs").mkdir(0o700)
    (tmp_path / "scratch" / "dask-main").symlink_to(tmp_path / "theirs")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(DaskError, match="is a link, in a directory that others"):
        configure(options, check_mode=False)
    assert not (tmp_path / ".dask").exists()


def test_a_directory_of_somebody_else_is_refused(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch" / "dask-main").mkdir()
    real = directory_status

    def of_somebody_else(path: str) -> os.stat_result | None:
        found = real(path)
        return os.stat_result([*found[:4], 4711, *found[5:]]) if found and path.endswith("dask-main") else found

    monkeypatch.setattr(_host, "directory_status", of_somebody_else)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(DaskError, match="belongs to 4711"):
        configure(options, check_mode=False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "nonsense",
        *(
            json.dumps({"directories": each})
            for each in (
                None,
                "/",
                ["/srv/x"],
                {"relative/path": True},
                {"/": True},
                {"/etc": True},
                {"/srv/..": True},
                {"/srv/x": 7},
            )
        ),
    ],
)
def test_a_record_that_is_not_ours_removes_nothing(options: Options, tmp_path: Path, text: str) -> None:
    assert changed(options)
    record = tmp_path / ".dask" / "main" / "etc" / _host.RECORD
    assert json.loads(record.read_text()) == {"directories": {str(tmp_path / "scratch" / "dask-main"): True}}
    record.write_text(text)
    options["state"] = "absent"
    if text:
        with pytest.raises(DaskError, match="is not what the collection wrote"):
            configure(options, check_mode=False)
        assert (tmp_path / ".dask" / "main" / "var").exists()
    else:
        assert changed(options)
    assert (tmp_path / "scratch" / "dask-main").exists()


def a_directory_of(uid: int, path: Path) -> None:
    path.mkdir()
    os.chown(path, uid, uid)


@pytest.mark.usefixtures("as_root")
def test_a_directory_that_somebody_makes_between_the_look_and_the_step_is_refused(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = tmp_path / "scratch" / "dask-main"
    make = Host._make_directory

    def meanwhile(host: Host, path: str, owner: str) -> None:
        if path == str(local) and not local.exists():
            a_directory_of(12345, local)
        make(host, path, owner)

    monkeypatch.setattr(Host, "_make_directory", meanwhile)
    with pytest.raises(DaskError, match="dask-main is refused: it belongs to account number 12345"):
        configure(options, check_mode=False)
    assert local.stat().st_uid == 12345


@pytest.mark.usefixtures("as_root")
def test_removal_leaves_what_somebody_else_made_in_place_of_what_was_written_down(
    options: Options, tmp_path: Path
) -> None:
    configure(options, check_mode=False)
    local = tmp_path / "scratch" / "dask-main"
    local.rmdir()
    a_directory_of(12345, local)
    configure({**options, "state": "absent"}, check_mode=False)
    assert [path.name for path in tmp_path.rglob("*")] == ["scratch", "dask-main"]


def test_a_cluster_inside_the_directory_of_another_one_is_refused(options: Options, tmp_path: Path) -> None:
    assert changed(options)
    inside = layout("other", "user", str(tmp_path / ".dask" / "main"), "").as_dict()
    with pytest.raises(DaskError, match="which belongs to cluster 'main' and goes with it"):
        configure({**options, "cluster": "other", "directories": inside, "writable": []}, check_mode=False)


@pytest.mark.parametrize("home", ["lab", "~/lab", "5", "//srv/lab", "."])
def test_a_path_that_is_none_is_no_endless_search(options: Options, home: str) -> None:
    options["directories"] = layout("main", "user", home, "").as_dict()
    assert isinstance(Host(options).parents, list)


def test_a_mount_is_found_behind_a_link(options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / ".dask").symlink_to(tmp_path / "real")
    assert changed(options)
    monkeypatch.setattr(_files, "_mount_points", lambda: ["/", str(tmp_path / "real" / "main" / "var")])
    with pytest.raises(DaskError, match="file systems are mounted in it"):
        configure({**options, "state": "absent"}, check_mode=False)


def test_what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    dead, alive = (tmp_path / f".file.flotilla-{pid}" for pid in (2**22 + 5, os.getppid()))
    for path in (dead, alive):
        path.touch()
    _files.write_text(str(tmp_path / "file"), "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([alive.name, "file"])


@pytest.fixture
def account_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The list of who uses the account, of a host of the test's own."""
    path = tmp_path / "etc" / "account"
    path.parent.mkdir()
    monkeypatch.setattr(_host, "USERS", str(path))
    return path


@pytest.mark.parametrize("text", ["{", "7", "[7]", '{"a": 1}'])
def test_a_damaged_list_of_who_uses_the_account_ends_nobodys_processes(
    options: Options, account_users: Path, text: str
) -> None:
    account_users.write_text(text)
    with pytest.raises(DaskError, match=r"etc/account is refused: it is not what the collection wrote"):
        Host({**options, "account": "daemon", "state": "absent"}).plan_absent()


def test_readers_are_written_by_their_numbers_and_those_without_an_account_are_named(options: Options) -> None:
    options["readers"] = ["nobody", "no-such-account", "root"]
    assert configure(options, check_mode=True)["unknown"] == []  # it may be made by this very run
    assert configure(options, check_mode=False)["unknown"] == ["no-such-account"]
    nobody = pwd.getpwnam("nobody").pw_uid
    assert Path(options["directories"]["readers"]).read_text() == f"{nobody} nobody\n0 root\n"
    assert not changed(options)
    options["readers"] = []
    assert changed(options)
    assert Path(options["directories"]["readers"]).read_text() == ""
