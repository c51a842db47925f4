# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What may be a secret, and the files on a host that processes have them from."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.flotilla.dask.plugins.module_utils import _in_process, _secrets
from ansible_collections.flotilla.dask.plugins.module_utils._accounts import Account
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._secrets import KEY, Store, read_secrets, set_of, shown

VALUE = "hunter22"
SETS = {"scheduler": {"TOKEN": VALUE}, "worker-cpu": {"TOKEN": VALUE, "PEM": "line 1\r\nline 2\n"}, "worker-gpu": {}}
NOBODY = Account("nobody", 65534, 65534, (65534,), "/")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "secrets"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def files(directory: Path) -> dict[str, str]:
    """What is below a directory, by the paths below it."""
    return {
        str(path.relative_to(directory)): path.read_bytes().decode() for path in directory.rglob("*") if path.is_file()
    }


def keep(directory: Path, kind: str, sets: t.Any, reader: Account | None = None) -> Store:
    store = Store(str(directory), kind, sets, reader)
    store.write()
    store.prune()
    return store


@pytest.mark.parametrize(
    "name",
    [
        "",
        "1A",
        "A-B",
        "A B",
        "A=B",
        "../A",
        "Ä",
        "A" * 101,
        "PATH",
        "path",
        "HOME",
        "DASK_TEMPORARY_DIRECTORY",
        "FLOTILLA_SECRETS",
        "CREDENTIALS_DIRECTORY",
        "LD_PRELOAD",
        "PYTHONPATH",
        "LC_ALL",
        "TAKEN",
    ],
)
def test_a_name_that_is_no_variables_or_somebody_elses_is_refused(name: str) -> None:
    found, [problem] = read_secrets("dask_secrets", {name: VALUE, "GOOD": VALUE}, {"TAKEN"})
    assert found == {"GOOD": VALUE}
    assert problem.startswith("dask_secrets.{0}: the name ".format(name))
    assert "Allowed: " in problem
    assert VALUE not in problem


@pytest.mark.parametrize(
    "value",
    ["", "abc", "with\0nul" + VALUE, "\ud800" + VALUE, True, None, [VALUE], {"A": VALUE}, VALUE * 10000, b"bytes"],
    ids=range(10),
)
def test_a_value_that_no_process_could_have_is_refused_in_words_without_it(value: t.Any) -> None:
    found, [problem] = read_secrets("dask_worker_groups[0].secrets", {"TOKEN": value})
    assert found == {}
    assert problem.startswith("dask_worker_groups[0].secrets.TOKEN: ")
    assert "Allowed: " in problem
    assert not value or str(value) not in problem
    assert VALUE not in problem


@pytest.mark.parametrize("value", [VALUE, [VALUE], 7222222, True])
def test_what_is_no_mapping_is_refused_in_words_without_it(value: t.Any) -> None:
    found, [problem] = read_secrets("dask_secrets", value)
    assert found == {}
    assert "Allowed: a mapping" in problem
    assert str(value) not in problem


def test_values_are_bounded_together() -> None:
    found, [problem] = read_secrets("dask_secrets", {"A{0}".format(index): "x" * 60000 for index in range(5)})
    assert "256 KiB" in problem
    assert read_secrets("dask_secrets", dict(list(found.items())[:4])) == (dict(list(found.items())[:4]), [])


def test_a_number_is_its_text_and_nothing_is_no_secret() -> None:
    assert read_secrets("dask_secrets", {"PIN": 123456}) == ({"PIN": "123456"}, [])
    assert read_secrets("dask_secrets", None) == ({}, [])


def test_a_message_shows_of_secrets_their_names_alone() -> None:
    group = {"name": "cpu", "secrets": {"TOKEN": VALUE}}
    assert shown([group, "x"]) == [{"name": "cpu", "secrets": {"TOKEN": "(secret)"}}, "x"]
    assert VALUE not in repr(shown({"secrets": [VALUE]}))


def test_files_are_their_owners_alone_and_exactly_what_was_said(directory: Path) -> None:
    keep(directory, "scheduler", SETS)
    keep(directory, "worker", SETS)
    found = files(directory)
    assert found.pop(KEY)
    assert found == {"scheduler/TOKEN": VALUE, "worker-cpu/TOKEN": VALUE, "worker-cpu/PEM": "line 1\r\nline 2\n"}
    assert {mode(path) for path in directory.rglob("*") if path.is_file()} == {0o400}
    assert {mode(path) for path in (directory, *directory.glob("*-*"))} == {0o700}


@pytest.mark.usefixtures("as_root")
def test_an_account_reads_its_files_and_can_neither_list_nor_replace_them(directory: Path) -> None:
    keep(directory, "worker", SETS, NOBODY)
    path = directory / "worker-cpu"
    assert {(each.stat().st_uid, mode(each)) for each in path.iterdir()} == {(NOBODY.uid, 0o400)}
    assert [(each.stat().st_uid, mode(each)) for each in (directory, path)] == [(0, 0o711)] * 2
    assert ((directory / KEY).stat().st_uid, mode(directory / KEY)) == (0, 0o400)


def test_a_second_look_finds_nothing_to_do_and_a_look_changes_nothing(directory: Path) -> None:
    first = Store(str(directory), "worker", SETS)
    assert (first.outdated, directory.exists()) == (["worker-cpu"], False)
    keep(directory, "worker", SETS)
    again = Store(str(directory), "worker", SETS)
    assert (again.outdated, again.left, again.diff()) == ([], [], [])
    assert again.versions() == Store(str(directory), "scheduler", SETS).versions()
    assert set(again.versions()) == {"scheduler", "worker-cpu"}


def test_processes_of_a_kind_without_secrets_come_first_and_versions_are_the_same(directory: Path) -> None:
    sets = {"scheduler": {}, "worker-cpu": {"TOKEN": VALUE}}
    first = keep(directory, "scheduler", sets)
    assert not first.is_settled
    assert Store(str(directory), "scheduler", sets).is_settled
    assert keep(directory, "worker", sets).versions() == first.versions()
    assert Store(str(directory), "worker", sets).is_settled
    assert not Store(str(directory), "worker", {}).is_settled


@pytest.mark.parametrize(
    "change",
    [{"TOKEN": "other-value", "PEM": "line 1\r\nline 2\n"}, {"TOKEN": VALUE}, {**SETS["worker-cpu"], "MORE": VALUE}],
)
def test_a_version_changes_with_names_and_values_of_its_set_alone(directory: Path, change: dict[str, str]) -> None:
    before = keep(directory, "worker", SETS).versions()
    after = Store(str(directory), "worker", {**SETS, "worker-cpu": change}).versions()
    assert after["worker-cpu"] != before["worker-cpu"]
    assert after["scheduler"] == before["scheduler"]


def test_whoever_knows_everything_but_the_key_cannot_tell_a_guess_from_the_version(tmp_path: Path) -> None:
    stores = [keep(tmp_path / name, "worker", SETS) for name in ("one", "other")]
    assert stores[0].version("worker-cpu") != stores[1].version("worker-cpu")


@pytest.mark.parametrize("damage", ["text", "mode", "gone", "directory", "link", "bytes"])
def test_a_file_that_is_not_what_was_written_is_written_again(directory: Path, damage: str) -> None:
    keep(directory, "worker", SETS)
    path = directory / "worker-cpu" / "TOKEN"
    if damage == "text":
        path.chmod(0o600)
        path.write_text("other")
        path.chmod(0o400)
    elif damage == "mode":
        path.chmod(0o444)
    elif damage == "directory":
        path.parent.chmod(0o755)
    else:
        path.unlink()
    if damage == "link":
        (directory / "elsewhere").write_text(VALUE)
        path.symlink_to(directory / "elsewhere")
    if damage == "bytes":
        path.write_bytes(b"\xff")
    assert Store(str(directory), "worker", SETS).outdated == ["worker-cpu"]
    keep(directory, "worker", SETS)
    assert (path.read_text(), path.is_symlink(), mode(path), mode(path.parent)) == (VALUE, False, 0o400, 0o700)


def test_what_is_needed_no_longer_vanishes_and_the_key_with_the_last_of_it(directory: Path) -> None:
    keep(directory, "scheduler", SETS)
    keep(directory, "worker", SETS)
    fewer = {**SETS, "worker-cpu": {"TOKEN": VALUE}}
    store = keep(directory, "worker", fewer)
    assert store.left == [str(directory / "worker-cpu" / "PEM")]
    assert VALUE not in json.dumps(store.diff())
    assert not (directory / "worker-cpu" / "PEM").exists()
    keep(directory, "worker", {"scheduler": SETS["scheduler"]})
    assert sorted(each.name for each in directory.iterdir()) == [KEY, "scheduler"]
    keep(directory, "scheduler", {})
    assert not directory.exists()


def test_of_what_is_written_a_diff_has_the_names(directory: Path) -> None:
    text = json.dumps(Store(str(directory), "worker", SETS).diff())
    assert "TOKEN" in text
    assert "PEM" in text
    assert VALUE not in text
    assert "line 1" not in text


@pytest.mark.usefixtures("as_root")
def test_a_place_that_somebody_else_has_made_is_refused(directory: Path) -> None:
    directory.mkdir()
    os.chown(directory, NOBODY.uid, NOBODY.gid)
    with pytest.raises(DaskError, match="belongs to account number"):
        keep(directory, "worker", SETS)
    assert not list(directory.iterdir())


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=4, max_size=50))
def test_a_process_has_in_its_environment_what_was_said(tmp_path_factory: pytest.TempPathFactory, value: str) -> None:
    directory = tmp_path_factory.mktemp("secrets") / "s"
    keep(directory, "worker", {"worker-cpu": {"THE_SECRET": value}})
    variables = {_in_process.NAMES: "THE_SECRET", _in_process.DIRECTORY: str(directory / set_of("worker", "cpu"))}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("THE_SECRET", raising=False)
        for name, each in variables.items():
            patch.setenv(name, each)
        _in_process.load_secrets()
        assert os.environ.pop("THE_SECRET") == value


def test_whoever_loads_the_module_and_its_children_have_them(directory: Path, tmp_path: Path) -> None:
    keep(directory, "worker", SETS)
    (tmp_path / "flotilla_in_process.py").write_text(Path(_in_process.__file__).read_text())
    code = "import flotilla_in_process, os; os.system('printf %s \"$TOKEN\"')"
    variables = {_in_process.NAMES: "PEM TOKEN", _in_process.DIRECTORY: str(directory / "worker-cpu")}
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), "DASK_ROOT_CONFIG": "/none", **variables}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == VALUE


def test_a_process_without_a_secret_does_not_start_and_a_child_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_in_process, "REFUSED_SECONDS", 0)
    monkeypatch.setenv(_in_process.NAMES, "THE_SECRET")
    monkeypatch.setenv(_in_process.DIRECTORY, str(tmp_path))
    monkeypatch.setenv("THE_SECRET", VALUE)
    _in_process.load_secrets()
    assert os.environ["THE_SECRET"] == VALUE
    monkeypatch.delenv("THE_SECRET")
    with pytest.raises(SystemExit):
        _in_process.load_secrets()
    assert "the secret THE_SECRET cannot be read" in caplog.text


def test_process_and_launcher_call_the_variables_the_same() -> None:
    assert (_in_process.NAMES, _in_process.DIRECTORY) == (_secrets.NAMES, _secrets.DIRECTORY)
