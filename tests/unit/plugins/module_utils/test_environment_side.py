# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the process of a job does by itself: finding the function, storing the result, counting and quoting."""

from __future__ import annotations

import json
import math
import os.path
import typing as t
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils._environment_side import (
    JobFailedError,
    as_json,
    count_tasks,
    last_lines,
    load_function,
)


def test_functions_are_found_in_modules_packages_and_classes() -> None:
    assert load_function("math:sqrt") is math.sqrt
    assert load_function("os.path:join") is os.path.join
    assert load_function("json:JSONEncoder.encode") is json.JSONEncoder.encode


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("no_such_package:run", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("math:no_such_function", "AttributeError: module 'math' has no attribute 'no_such_function'"),
    ],
)
def test_a_function_that_is_not_there_is_a_failure_that_says_where_it_looked(
    name: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(JobFailedError) as caught:
        load_function(name)
    assert caught.value.reason == "import"
    assert str(caught.value).startswith("{0} cannot be imported ({1})".format(name, problem))
    assert "\n  {0}\n".format(tmp_path) in str(caught.value)


def test_a_module_that_breaks_while_it_is_imported_is_a_failure_with_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken_by_its_author.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(JobFailedError, match="ZeroDivisionError"):
        load_function("broken_by_its_author:run")
    assert "1 / 0" in capsys.readouterr().err


def test_what_cannot_be_called_is_a_failure() -> None:
    with pytest.raises(JobFailedError, match="math:pi is a float, which cannot be called"):
        load_function("math:pi")


@pytest.mark.parametrize("value", [None, 1, 1.5, "é", [1, [2]], {"a": {"b": [True]}}], ids=repr)
def test_what_json_holds_is_stored_as_it_is(value: t.Any) -> None:
    assert as_json(value) == value


def test_what_json_cannot_hold_is_a_failure_that_says_what_to_return() -> None:
    with pytest.raises(JobFailedError, match=r"set is not JSON serializable.*Return numbers") as caught:
        as_json([{1, 2}])
    assert caught.value.reason == "result"


def test_a_result_that_refers_to_itself_is_a_failure() -> None:
    circle: list[t.Any] = []
    circle.append(circle)
    with pytest.raises(JobFailedError, match="Circular reference"):
        as_json(circle)


def test_tasks_are_done_when_they_hold_a_result_were_released_or_failed() -> None:
    prefixes = {
        "count": {"memory": 3, "processing": 2, "waiting": 1, "released": 0},
        "sum": {"released": 4, "erred": 1, "no-worker": 1},
    }
    assert count_tasks(prefixes) == {"done": 8, "total": 12}
    assert count_tasks({}) == {"done": 0, "total": 0}


@pytest.mark.parametrize(
    ("content", "lines"),
    [(b"", ""), (b"one\ntwo\nthree\n", "two\nthree"), (b"one\ntwo\nthree", "two\nthree"), (b"\xff\n", "\ufffd")],
    ids=["empty", "lines", "no end", "not UTF-8"],
)
def test_the_last_lines_of_a_log_are_text_whatever_it_holds(content: bytes, lines: str, tmp_path: Path) -> None:
    log = tmp_path / "output.log"
    log.write_bytes(content)
    assert last_lines(str(log), 2) == lines


def test_the_last_lines_of_a_huge_log_are_only_its_end(tmp_path: Path) -> None:
    log = tmp_path / "output.log"
    log.write_bytes(b"x" * 1_000_000 + b"\nlast\n")
    lines = last_lines(str(log), 2)
    assert lines.endswith("x\nlast")
    assert len(lines) < 20_000
