# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A generation becomes current when it is complete, and goes when it is old and nobody needs it."""

from __future__ import annotations

import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._generations import dask_generation

Complete = t.Callable[..., t.Dict[str, t.Any]]


def name(number: int) -> str:
    return f"lab-{number:012x}"


@pytest.fixture
def complete(tmp_path: Path) -> Complete:
    """Completes a generation by its number, as the module does; in check mode first, which has to say the same."""
    clock = iter(range(1_000_000, 2_000_000))

    def call(number: int, **options: t.Any) -> dict[str, t.Any]:
        given: dict[str, t.Any] = {
            "path": str(tmp_path / "envs" / name(number)),
            "prefix": "",
            "cache": str(tmp_path / "cache"),
            "content": {"number": number},
            "plugins": [],
            "plugin_directory": "",
            "keep": 3,
            "supplies": "",
            "uv": "uv-0",
            **options,
        }
        prefix = Path(given["path"])
        if not given["prefix"] and not (prefix / "packages.json").exists():  # as made by the module before this one
            prefix.mkdir(parents=True, exist_ok=True)
            (prefix / "packages.json").write_text('{"content": "", "packages": []}')
        before = sorted(tmp_path.rglob("*"))
        predicted = dask_generation(given, check_mode=True)
        assert sorted(tmp_path.rglob("*")) == before
        applied = dask_generation(given, check_mode=False)
        assert applied == predicted
        record = tmp_path / "envs" / name(number) / "environment.json"
        moment = next(clock)
        os.utime(record, (moment, moment))
        return applied

    return call


def there(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "envs").iterdir() if path.is_dir() and not path.is_symlink()}


def test_the_first_generation_becomes_current_and_a_second_run_changes_nothing(
    complete: Complete, tmp_path: Path
) -> None:
    assert complete(1)["changed"]
    assert (tmp_path / "envs" / "current").resolve().name == name(1)
    assert not complete(1)["changed"]


def test_old_generations_go_beyond_the_number_and_the_one_last_current_goes_last(
    complete: Complete, tmp_path: Path
) -> None:
    for number in (1, 2, 3):
        complete(number)
    complete(1)  # back to the first one, so that the second is the oldest
    assert complete(4)["removed"] == [name(2)]
    assert there(tmp_path) == {name(1), name(3), name(4)}
    assert not complete(4)["changed"]


def test_other_environments_and_other_files_are_left_alone(complete: Complete, tmp_path: Path) -> None:
    complete(1)
    others = {"other-000000000001", "lab-notes", "lab-00000000000"}
    for other in others:
        (tmp_path / "envs" / other).mkdir()
    for number in (2, 3):
        complete(number, keep=2)
    assert there(tmp_path) == {name(2), name(3)} | others


def test_what_was_interrupted_goes(complete: Complete, tmp_path: Path) -> None:
    complete(1)
    (tmp_path / "envs" / name(2) / "bin").mkdir(parents=True)
    assert complete(1)["removed"] == [name(2)]


def test_what_another_run_has_just_made_stays(complete: Complete, tmp_path: Path) -> None:
    complete(1)
    record = tmp_path / "envs" / name(2) / "packages.json"
    record.parent.mkdir()
    record.write_text('{"content": "", "packages": []}')
    assert complete(1)["removed"] == []
    os.utime(record, (1, 1))
    assert complete(1)["removed"] == [name(2)]


def test_an_environment_that_is_gone_never_becomes_current(complete: Complete, tmp_path: Path) -> None:
    complete(1)
    options = {"path": str(tmp_path / "envs" / name(2)), "prefix": "", "cache": str(tmp_path / "cache"), "content": {}}
    more = {"plugins": [], "plugin_directory": "", "keep": 3, "supplies": "", "uv": "uv-0"}
    with pytest.raises(DaskError, match="was removed while this ran, by another run"):
        dask_generation({**options, **more}, check_mode=False)
    assert (tmp_path / "envs" / "current").resolve().name == name(1)


def test_a_generation_that_a_process_runs_from_stays(complete: Complete, tmp_path: Path) -> None:
    complete(1)
    argument = str(tmp_path / "envs" / name(1) / "bin" / "python")
    waiting = "import sys; sys.stdout.write('ready'); sys.stdout.flush(); sys.stdin.read()"
    command = [sys.executable, "-c", waiting, argument]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.read(5) == b"ready"
        for number in (2, 3, 4):
            assert complete(number, keep=2)["removed"] == ([name(number - 2)] if number > 3 else [])
        assert name(1) in there(tmp_path)
        process.communicate()
    assert complete(4, keep=2)["removed"] == [name(1)]


def test_packages_that_no_environment_has_leave_the_caches(complete: Complete, tmp_path: Path) -> None:
    conda, wheels = tmp_path / "cache" / "conda", tmp_path / "cache" / "wheels"
    for folder in ("a-1-0", "b-1-0"):
        (conda / folder / "info").mkdir(parents=True)
    wheels.mkdir()
    for wheel in ("c-1-py3-none-any.whl", "d-1-py3-none-any.whl"):
        (wheels / wheel).touch()
    for number, file in ((1, "a-1-0.conda"), (2, "b-1-0.conda"), (3, "c-1-py3-none-any.whl")):
        prefix = tmp_path / "envs" / name(number)
        prefix.mkdir(parents=True)
        (prefix / "packages.json").write_text(f'{{"content": "", "packages": [], "files": ["{file}"]}}')
        complete(number, keep=2)
    assert [path.name for path in conda.iterdir()] == ["b-1-0"]
    assert [path.name for path in wheels.iterdir()] == ["c-1-py3-none-any.whl"]


def test_an_environment_elsewhere_becomes_current(complete: Complete, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    complete(1, prefix=str(tmp_path / "mine"))
    assert (tmp_path / "envs" / "current").resolve() == tmp_path / "mine"
    assert not complete(1, prefix=str(tmp_path / "mine"))["changed"]


def test_a_directory_in_the_place_of_the_link_is_refused(complete: Complete, tmp_path: Path) -> None:
    (tmp_path / "envs" / "current").mkdir(parents=True)
    with pytest.raises(DaskError, match="current is refused: it is not a link"):
        complete(1)
