# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What makes a job the job that it is, and what is refused before anything runs."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils._digest import digest
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._jobs import describe_failure, specification


def job_digest(**changes: t.Any) -> str:
    options: dict[str, t.Any] = {
        "name": "count",
        "function": "lab:count",
        "script": None,
        "content": None,
        "arguments": [],
    }
    return digest(specification(**{**options, **changes}))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"arguments": '{"top": 10, "by": "size"}'}, {"arguments": {"by": "size", "top": 10}}),
        ({"arguments": "[1, 2]"}, {"arguments": [1, 2]}),
        ({"arguments": None}, {"arguments": []}),
        ({"function": None, "script": "a.py", "content": "x"}, {"function": "", "script": "a.py", "content": "x"}),
    ],
    ids=["order of keys", "JSON text", "no arguments", "no function"],
)
def test_two_ways_to_say_the_same_are_one_job(one: dict[str, t.Any], other: dict[str, t.Any]) -> None:
    assert job_digest(**one) == job_digest(**other)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "count-2"},
        {"function": "lab:count_all"},
        {"arguments": [1]},
        {"function": None, "script": "count.py"},
        {"function": None, "script": "count.py", "content": "print(1)"},
        {"function": None, "script": "count.py", "content": "print(2)"},
        {"function": None, "script": "count.py", "content": ""},
    ],
    ids=str,
)
def test_any_change_of_what_runs_is_another_job(change: dict[str, t.Any]) -> None:
    others = [{}, {"function": None, "script": "count.py", "content": "print(3)"}]
    assert job_digest(**change) not in [job_digest(**other) for other in others]


@pytest.mark.parametrize("name", ["nightly", "2026", "a.b_c-d", "A" * 100])
def test_names_that_can_be_a_directory_are_taken(name: str) -> None:
    assert specification(name, "lab:count", None, None, [])["name"] == name


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "-x", ".x", "a/b", "a b", "a\n", "é", "A" * 101])
def test_names_that_could_leave_the_directory_of_the_jobs_are_refused(name: str) -> None:
    with pytest.raises(DaskError, match=r"^name: .* is refused. Allowed: "):
        specification(name, "lab:count", None, None, [])


@pytest.mark.parametrize(
    "function", ["count", "lab.count", "lab:", ":count", "lab:count()", "lab:a-b", "/x:y", "lab:count\n"]
)
def test_what_does_not_name_a_function_is_refused(function: str) -> None:
    with pytest.raises(DaskError, match=r"^function: .* is refused. Allowed: package.module:callable"):
        specification("count", function, None, None, [])


@pytest.mark.parametrize("function", ["lab:count", "lab.words:count", "lab.words:Counter.count", "_lab:_count"])
def test_functions_of_modules_and_of_classes_are_taken(function: str) -> None:
    assert specification("count", function, None, None, [])["function"] == function


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [("{top: 10}", "not JSON"), ("10", "Allowed: a list"), (10, "Allowed: a list"), ([{1, 2}], "set is not JSON")],
    ids=["not JSON", "JSON but a number", "number", "not storable"],
)
def test_arguments_that_are_no_list_or_mapping_are_refused(arguments: t.Any, problem: str) -> None:
    with pytest.raises(DaskError, match=r"^arguments: .* is refused.*{0}".format(problem)):
        specification("count", "lab:count", None, None, arguments)


def test_a_script_takes_no_keywords() -> None:
    with pytest.raises(DaskError, match="words for the script"):
        specification("count", None, "count.py", "", {"top": 10})


@pytest.mark.parametrize(
    ("reason", "shows_output"), [("error", True), ("lost", True), ("exit", False), ("timeout", False)]
)
def test_a_failure_is_described_with_its_last_lines_unless_the_message_has_them(
    reason: str, shows_output: bool
) -> None:
    record = {
        "name": "count",
        "state": "failed",
        "message": "Why.",
        "reason": reason,
        "output": "Traceback",
        "directory": "/j",
    }
    words = describe_failure(record)
    assert words.startswith("Job 'count' failed: Why.")
    assert ("Traceback" in words) == shows_output
    assert words.endswith("Its files are in /j. Set 'rerun: true' to run it again.")
