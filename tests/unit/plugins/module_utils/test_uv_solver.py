# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Requirements are solved once, by a real uv, from a directory of wheels, and a host installs exactly the lock."""

from __future__ import annotations

import os
import re
import shutil
import sys
import typing as t
from dataclasses import asdict
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._interpreters import interpreter, supported_interpreter
from ansible_collections.flotilla.dask.plugins.module_utils._locks import UV
from ansible_collections.flotilla.dask.plugins.module_utils._uv_solver import venv_lock
from ansible_collections.flotilla.dask.plugins.module_utils._venv import venv_environment
from ansible_collections.flotilla.dask.tests.unit import wheels

Solve = t.Callable[..., t.Dict[str, t.Any]]
HERE = interpreter(sys.executable)
SENT = UV.replace("==", "-")


@pytest.fixture
def wheelhouse(tmp_path: Path) -> Path:
    directory = tmp_path / "wheelhouse"
    for name, version in (("alpha", "1.0"), ("beta", "1.0"), ("beta", "2.0")):
        wheels.write_wheel(directory, name, version, *(["beta>=1"] if name == "alpha" else []))
    return directory


@pytest.fixture
def solve(tmp_path: Path, wheelhouse: Path) -> Solve:
    """Locks requirements in tmp_path, as the module does."""

    def call(*requirements: str, check_mode: bool = False, **options: t.Any) -> dict[str, t.Any]:
        given = {
            "path": str(tmp_path / "locks" / "pylock.lab.toml"),
            "requirements": list(requirements),
            "also": [],
            "constraints": "",
            "pythons": [asdict(HERE)],
            "sources": False,
            "update": False,
            "cache": str(tmp_path / "cache"),
            "wheelhouse": str(wheelhouse),
            "ca_bundle": "",
        }
        return venv_lock({**given, **options}, check_mode)

    return call


def versions(result: dict[str, t.Any]) -> list[str]:
    return [f"{each['name']} {each['version']}" for each in result["lock"]["packages"]]


def test_check_mode_says_what_a_run_locks_and_a_second_run_does_nothing(solve: Solve, tmp_path: Path) -> None:
    predicted = solve("alpha", check_mode=True)
    assert not (tmp_path / "locks").exists()
    applied = solve("alpha")
    assert applied == predicted
    assert versions(applied) == ["alpha 1.0", "beta 2.0"]
    assert applied["packages"] == {HERE.key: {"added": ["alpha 1.0", "beta 2.0"], "removed": [], "changed": []}}
    again = solve("alpha")
    assert (again["changed"], again["diff"], again["lock"]) == (False, [], applied["lock"])


def test_a_lock_stays_with_its_versions_until_it_is_updated(solve: Solve, wheelhouse: Path) -> None:
    solve("alpha")
    wheels.write_wheel(wheelhouse, "beta", "3.0")
    wheels.write_wheel(wheelhouse, "gamma", "1.0")
    changed = solve("gamma", "alpha")
    assert versions(changed) == ["alpha 1.0", "beta 2.0", "gamma 1.0"]
    assert not solve("alpha", " gamma ")["changed"]
    updated = solve("gamma", "alpha", update=True)
    assert updated["packages"][HERE.key]["changed"] == ["beta 2.0 -> 3.0"]
    assert not solve("gamma", "alpha", update=True)["changed"]


def test_constraints_are_kept_to_and_changed_ones_are_solved(solve: Solve) -> None:
    assert versions(solve("alpha", constraints="beta==1.0\n")) == ["alpha 1.0", "beta 1.0"]
    assert not solve("alpha", constraints="# why\nbeta==1.0  # old\n")["changed"]
    assert versions(solve("alpha", constraints="")) == ["alpha 1.0", "beta 1.0"]  # stays
    assert versions(solve("alpha", constraints="beta>1")) == ["alpha 1.0", "beta 2.0"]


def test_what_processes_need_is_added_where_nothing_was_said_about_it(solve: Solve) -> None:
    assert versions(solve("alpha", also=["Beta"])) == ["alpha 1.0", "beta 2.0"]
    assert versions(solve("beta<2", also=["Beta"])) == ["beta 1.0"]


def test_a_lock_for_newer_pythons_is_solved_for_an_older_one_too(solve: Solve, tmp_path: Path) -> None:
    newer = {"version": "3.14.0", "platform": HERE.platform, "libc": HERE.libc}
    older = {**newer, "version": "3.12.1"}
    lock = tmp_path / "locks" / "pylock.lab.toml"
    solve("alpha", pythons=[newer])
    assert 'requires-python = ">=3.14' in lock.read_text()
    assert solve("alpha", pythons=[newer, older])["changed"]
    assert 'requires-python = ">=3.12' in lock.read_text()
    # A run for some of the hosts doesn't take the others' Python away.
    assert not solve("alpha", pythons=[newer], update=True)["changed"]


def test_a_lock_that_was_made_elsewhere_is_taken_as_it_is(solve: Solve, tmp_path: Path) -> None:
    solve("alpha")
    lock = tmp_path / "locks" / "pylock.lab.toml"
    lock.write_text("".join(line for line in lock.read_text().splitlines(True) if not line.startswith("#")))
    found = solve("beta<2")
    assert (found["changed"], versions(found)) == (False, ["alpha 1.0", "beta 2.0"])
    with pytest.raises(DaskError, match=r"dask_environment_update: True is refused, as .* was not made by this"):
        solve("beta<2", update=True)


@pytest.mark.parametrize(
    ("requirements", "refused"),
    [
        ([], r"dask_environment_packages: \[\] is refused"),
        (["-e ."], "dask_environment_packages: '-e .' is refused"),
        (["--index-url=https://index.example"], "is refused"),
        (["alpha\nbeta"], "it has a control character"),
        (["alpha==="], "cannot be solved.*expected version"),
        ([""], "is refused"),
        (["beta>=3"], r"cannot be solved.*only .*beta.* you require beta>=3"),
        (["alpha", "beta<1"], "cannot be solved.*alpha"),
        (["nowhere-to-be-found"], "cannot be solved.*nowhere-to-be-found"),
    ],
)
def test_requirements_that_cannot_be_met_are_refused_in_words(
    solve: Solve, tmp_path: Path, requirements: list[str], refused: str
) -> None:
    with pytest.raises(DaskError, match=refused):
        solve(*requirements)
    assert not (tmp_path / "locks").exists()


@pytest.mark.parametrize("line", ["-c other.txt", "beta==1.0 --hash=sha256:00", "beta==1.0 \\"])
def test_constraints_with_options_are_refused(solve: Solve, line: str) -> None:
    with pytest.raises(DaskError, match=r"dask_environment_constraints: .* is refused"):
        solve("alpha", constraints=line)


@pytest.mark.parametrize("path", ["pylock.toml", "None/.dask/pylock.lab.toml", "", "/tmp/a\nb.toml"])
def test_a_lock_without_a_place_is_refused(solve: Solve, path: str) -> None:
    with pytest.raises(DaskError, match=r"dask_environment_lock: .* is refused"):
        solve("alpha", path=path)


def test_a_lock_that_lacks_what_processes_need_is_not_written(solve: Solve, tmp_path: Path) -> None:
    with pytest.raises(DaskError, match="it lacks beta, without which nothing of a cluster runs"):
        solve("beta; python_version < '3'", also=["beta"])
    assert not (tmp_path / "locks").exists()


def test_a_link_to_a_lock_stays_a_link(solve: Solve, tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "pylock.lab.toml").symlink_to(tmp_path / "real.toml")
    solve("alpha")
    assert (tmp_path / "locks" / "pylock.lab.toml").is_symlink()
    assert "alpha" in (tmp_path / "real.toml").read_text()


def test_a_lock_that_cannot_be_written_is_refused_with_its_path(solve: Solve) -> None:
    with pytest.raises(DaskError, match=r"/proc/nowhere/pylock\.lab\.toml cannot be written"):
        solve("alpha", path="/proc/nowhere/pylock.lab.toml")


def test_an_index_that_cannot_be_reached_is_named(solve: Solve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(DaskError, match=r"cannot be solved.*127\.0\.0\.1:9"):
        solve("alpha", wheelhouse="")


@pytest.mark.parametrize("kind", ["none", "directory", "text", "option"])
def test_a_file_of_authorities_that_is_none_is_refused(solve: Solve, tmp_path: Path, kind: str) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "text").write_text("not a certificate\n")
    path = "-k" if kind == "option" else str(tmp_path / kind)
    with pytest.raises(DaskError, match=re.escape(f"dask_ca_bundle: {path!r} is refused")):
        solve("alpha", ca_bundle=path)


def test_without_uv_the_controllers_user_is_told_how_to_get_it(solve: Solve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_words, **_more: None)
    with pytest.raises(DaskError, match=rf"^There is no uv on the controller.* -m pip install {UV}"):
        solve("alpha")


def test_a_lock_for_no_host_yet_is_for_all_that_hosts_may_have(solve: Solve, tmp_path: Path) -> None:
    assert solve("alpha", pythons=[])["lock"]["packages"] == []
    assert 'requires-python = ">=3.11' in (tmp_path / "locks" / "pylock.lab.toml").read_text()


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("", "neither a program's name nor"),
        ("-c", "neither a program's name nor"),
        ("./python3", "neither a program's name nor"),
        ("python3 -I", "neither a program's name nor"),
        ("/usr/bin/python3\n", "neither a program's name nor"),
        ("/nowhere/python3", "cannot be run"),
        ("false", "exit status 1"),
        ("true", "it does not say its version"),
    ],
)
def test_a_python_that_is_none_is_refused(command: str, reason: str) -> None:
    with pytest.raises(DaskError) as caught:
        supported_interpreter(command)
    assert f"dask_environment_python: {command!r} is refused" in str(caught.value)
    assert reason in str(caught.value)


def test_a_python_that_is_too_old_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "python3.9"
    program.write_text('#!/bin/sh\necho \'{"version": "3.9.2+", "ordinary": true}\'\n')
    program.chmod(0o755)
    with pytest.raises(DaskError, match=r"it is Python 3\.9\.2\. Allowed: .*3\.11 or newer"):
        supported_interpreter(str(program))


def install(tmp_path: Path, check_mode: bool = False, **changes: t.Any) -> dict[str, t.Any]:
    cache = tmp_path / "host-cache"
    cache.mkdir(exist_ok=True)
    program = cache / SENT
    if not program.exists():
        program.symlink_to(os.path.join(os.path.dirname(sys.executable), "uv"))
    options = {
        "path": str(tmp_path / "envs" / "lab"),
        "cache": str(cache),
        "python": sys.executable,
        "packages": None,
        "requirements": None,
        "constraints": "",
        "replaces": "",
        "download_on": "host",
        "wheelhouse": str(tmp_path / "wheelhouse"),
        "ca_bundle": "",
        "uv": SENT,
        "supplies": "",
    }
    return venv_environment({**options, **changes}, check_mode)


def installed(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "envs" / "lab").glob("lib/python*/site-packages/*.dist-info")}


def test_a_host_installs_exactly_the_lock_and_a_second_run_does_nothing(solve: Solve, tmp_path: Path) -> None:
    packages = solve("alpha", constraints="beta==1.0")["lock"]["packages"]
    predicted = install(tmp_path, check_mode=True, packages=packages)
    assert not (tmp_path / "envs").exists()
    applied = install(tmp_path, packages=packages)
    assert applied == predicted
    assert applied["packages"]["added"] == ["alpha 1.0", "beta 1.0"]
    assert installed(tmp_path) == {"alpha-1.0.dist-info", "beta-1.0.dist-info"}
    assert not install(tmp_path, packages=packages)["changed"]
    # Only what is missing is fetched.
    for wheel in (tmp_path / "wheelhouse").iterdir():
        wheel.unlink()
    assert install(tmp_path, packages=packages, path=str(tmp_path / "envs" / "other"))["changed"]


def test_a_file_that_is_not_the_locked_one_is_refused_and_nothing_is_installed(solve: Solve, tmp_path: Path) -> None:
    packages = solve("alpha")["lock"]["packages"]
    wheels.write_wheel(tmp_path / "wheelhouse", "beta", "2.0", "something-else")
    with pytest.raises(DaskError, match=r"beta-2\.0-py3-none-any\.whl is refused: its sha256 is .* replaced"):
        install(tmp_path, packages=packages)
    assert not (tmp_path / "envs").exists()


def test_a_complete_generation_is_never_made_anew_for_the_same_python(solve: Solve, tmp_path: Path) -> None:
    packages = solve("alpha")["lock"]["packages"]
    install(tmp_path, packages=packages)
    (tmp_path / "envs" / "lab" / "environment.json").write_text('{"content": {}}')
    assert not install(tmp_path, packages=packages[:1])["changed"]
    record = tmp_path / "envs" / "lab" / "packages.json"
    record.write_text(record.read_text().replace(f"{HERE.minor[1]}\n", "2\n"))
    assert install(tmp_path, packages=packages[:1])["changed"]


def test_a_lock_for_another_python_is_refused(solve: Solve, tmp_path: Path) -> None:
    other = {"version": "3.14.0", "platform": "linux-aarch64", "libc": "2.41"}
    packages = solve("alpha", pythons=[other])["lock"]["packages"]
    with pytest.raises(DaskError, match=r"it has packages for linux-aarch64, Python 3\.14\.0.* Allowed: a lock with"):
        install(tmp_path, packages=packages)


def test_a_host_says_what_it_lacks_and_changes_nothing(solve: Solve, tmp_path: Path) -> None:
    packages = solve("alpha")["lock"]["packages"]
    result = install(tmp_path, packages=packages, download_on="controller", uv="uv-0")
    files = ["alpha-1.0-py3-none-any.whl", "beta-2.0-py3-none-any.whl", "uv-0"]
    assert result == {"changed": False, "needs": {"files": files, "platform": HERE.platform}}
    assert not (tmp_path / "envs").exists()
    asked = install(tmp_path, requirements=["alpha"])
    assert asked["needs"]["python"] == asdict(HERE)
