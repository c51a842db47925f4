# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What makes a job the job that it is, and what is refused before anything runs."""

from __future__ import annotations

import fcntl
import json
import os
import random
import socket
import stat
import subprocess
import tempfile
import typing as t
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils import _jobs
from ansible_collections.flotilla.dask.plugins.module_utils._accounts import Account, start_time
from ansible_collections.flotilla.dask.plugins.module_utils._digest import digest
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._jobs import (
    Job,
    Owner,
    describe_failure,
    names,
    specification,
)


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
        ({"secrets": {"B": "hunter22", "A": "hunter22"}}, {"secrets": {"A": "hunter23", "B": "hunter23"}}),
    ],
    ids=["order of keys", "JSON text", "no arguments", "no function", "other values of secrets"],
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
        {"secrets": {"TOKEN": "hunter22"}},
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


@pytest.fixture
def place(as_root: None) -> t.Iterator[Path]:
    """A directory that other accounts can enter, which pytest's own are not; for root, who can become one."""
    del as_root
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)


def somebody(place: Path) -> Owner:
    """Who has jobs on a host where root asks for them, and root has a file that nobody else reads."""
    number = random.randrange(200_000, 2_000_000)
    account = Account("stranger", number, number, (number,), str(place))
    jobs = place / "jobs"
    jobs.mkdir()
    os.chown(jobs, number, number)
    (place / "roots").write_text("secret of root\n")
    (place / "roots").chmod(0o600)
    return Owner(account, str(jobs))


def make_record(owner: Owner, name: str, **files: str) -> Path:
    """A job's files as the account itself can write them."""
    directory = Path(owner.jobs, name)
    wanted = {**specification(name, "lab:count", None, None, []), "digest": "0"}
    state = {"state": "finished", "attempts": 1, "started": 1.0, "ended": 2.0}
    texts = {"specification.json": json.dumps(wanted), "state.json": json.dumps(state), "result.json": "42"}

    def write() -> None:
        directory.mkdir()
        for file, text in {**texts, **files}.items():
            (directory / file).write_text(text)

    owner.account.run(write)
    return directory


def record_of(owner: Owner, name: str) -> dict[str, t.Any]:
    found = owner.account.run(Job(owner, name).record)
    assert found is not None
    return found


def test_what_an_earlier_job_left_open_is_closed_and_secrets_of_a_killed_one_go(place: Path) -> None:
    owner = somebody(place)
    directory = make_record(owner, "count", lock="")
    for path in (Path(owner.jobs), directory):
        path.chmod(0o755)

    def leave_secrets() -> None:
        (directory / "secrets").mkdir()
        (directory / "secrets" / "TOKEN").write_text("hunter22")

    owner.account.run(leave_secrets)
    with open(directory / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        owner.account.run(Job(owner, "count").tidy)
        assert (directory / "secrets" / "TOKEN").exists()  # the job runs
    owner.account.run(Job(owner, "count").tidy)
    assert not (directory / "secrets").exists()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (Path(owner.jobs), directory)] == [0o700] * 2
    assert record_of(owner, "count")["result"] == 42


def test_a_record_of_the_account_is_read(place: Path) -> None:
    owner = somebody(place)
    make_record(owner, "count", **{"output.log": "one\ntwo\n"})
    found = record_of(owner, "count")
    assert (found["state"], found["result"], found["output"]) == ("finished", 42, "one\ntwo")
    assert owner.account.run(lambda: names(owner)) == ["count"]
    assert owner.account.run(Job(owner, "other").record) is None


@pytest.mark.parametrize("file", ["output.log", "specification.json", "state.json", "result.json", "lock"])
@pytest.mark.parametrize("kind", ["link", "hard link", "fifo", "directory", "socket"])
def test_root_reads_nothing_of_its_own_for_a_job(place: Path, file: str, kind: str) -> None:
    owner = somebody(place)
    directory = make_record(owner, "count", **{"output.log": "one\n", "lock": ""})
    secret = place / "roots"
    path = directory / file
    path.unlink()
    if kind == "link":
        path.symlink_to(secret)
    elif kind == "hard link":
        os.link(secret, path)
    elif kind == "fifo":
        os.mkfifo(path, 0o666)
    elif kind == "directory":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    assert "secret of root" not in str(record_of(owner, "count"))
    owner.account.run(Job(owner, "count").remove)
    assert not directory.exists()
    assert secret.read_text() == "secret of root\n"


@pytest.mark.parametrize("file", ["specification.json", "state.json", "result.json"])
@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '"x"', "[" * 100_000, "\ud83d".encode("utf-8", "replace").decode()]
)
def test_a_damaged_record_costs_that_job_alone(place: Path, file: str, text: str) -> None:
    owner = somebody(place)
    make_record(owner, "bad", **{file: text})
    make_record(owner, "good")
    found = record_of(owner, "bad")
    assert found["state"] in ("failed", "finished")
    if file != "result.json":
        assert (found["state"], found["reason"]) == ("failed", "record")
        assert str(Path(owner.jobs, "bad")) in found["message"]
    good = record_of(owner, "good")
    assert (good["message"], good["result"]) == ("", 42)


def test_what_is_no_job_among_jobs_is_passed_over(place: Path) -> None:
    owner = somebody(place)
    make_record(owner, "good")
    Path(owner.jobs, "lost+found").mkdir()
    Path(owner.jobs, "link").symlink_to("/etc")
    Path(owner.jobs, "file").touch()
    os.mkdir(os.fsencode(owner.jobs) + b"/\xff")
    assert owner.account.run(lambda: names(owner)) == ["good"]


@pytest.mark.parametrize("number", ["victim", 1, -1, 0, "x", None, 2**40])
def test_cancelling_a_job_ends_no_process_that_its_record_names_and_that_is_not_the_jobs(
    place: Path, number: t.Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = somebody(place)
    monkeypatch.setattr(_jobs, "CANCEL_SECONDS", 0.2)
    with subprocess.Popen(["/bin/sleep", "600"]) as victim:
        try:
            state = {"state": "running", "attempts": 1, "started": 1.0}
            state["pid"] = victim.pid if number == "victim" else number
            state["pid_started"] = start_time(victim.pid) or 0
            directory = make_record(owner, "count", **{"state.json": json.dumps(state), "lock": ""})
            with open(directory / "lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                with pytest.raises(DaskError):
                    owner.account.run(Job(owner, "count").cancel)
            assert victim.poll() is None
        finally:
            victim.kill()
