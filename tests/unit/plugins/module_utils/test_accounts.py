# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is done as another account is done by it, with no way back, and says nothing that is believed unseen."""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import signal
import subprocess
import typing as t
from pathlib import Path

import pytest

from ansible_collections.flotilla.dask.plugins.module_utils import _accounts
from ansible_collections.flotilla.dask.plugins.module_utils._accounts import (
    Account,
    end_processes,
    find_account,
    is_only_roots,
    processes_of,
    read_json,
    signal_process,
    start_time,
    this_account,
)
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._service import run
from ansible_collections.flotilla.dask.plugins.module_utils._wait import wait_for

SECONDS = 20.0


@pytest.fixture
def nobody(as_root: None) -> Account:
    """An account that needs no entry on this host, with a number that no other test uses."""
    del as_root  # who alone can become another account
    number = random.randrange(200_000, 2_000_000)
    return Account("stranger", number, number, (number,), "/nonexistent")


@pytest.fixture
def sleeper(nobody: Account) -> t.Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/sleep", "600"], **nobody.popen()) as process:
        yield process
        process.kill()


def who() -> dict[str, t.Any]:
    home = os.environ.get("HOME")
    leaked = "TOKEN_OF_ROOT" in os.environ
    return {
        "uids": os.getresuid(),
        "gids": os.getresgid(),
        "groups": os.getgroups(),
        "home": home,
        "leaked": leaked,
    }


def test_work_is_done_as_the_account_with_all_its_numbers_and_little_of_roots_environment(
    nobody: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN_OF_ROOT", "secret")
    assert nobody.run(who) == {
        "uids": [nobody.uid] * 3,
        "gids": [nobody.gid] * 3,
        "groups": [nobody.gid],
        "home": "/nonexistent",
        "leaked": False,
    }
    assert os.getresuid() == (0, 0, 0)
    assert "TOKEN_OF_ROOT" not in nobody.environment()
    assert run(["/usr/bin/id", "-u"], account=nobody).strip() == str(nobody.uid)
    assert "TOKEN_OF_ROOT" not in run(["/usr/bin/env"], account=nobody)


def test_there_is_no_way_back(nobody: Account, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text("root's")
    theirs.chmod(0o600)

    def try_all() -> list[str]:
        tries: list[t.Callable[[], object]] = [
            lambda: os.setuid(0),
            lambda: os.seteuid(0),
            lambda: os.setresuid(0, 0, 0),
            lambda: os.setgid(0),
            lambda: os.setgroups([0]),
            theirs.read_text,
            lambda: os.kill(os.getppid(), 0),
        ]
        succeeded = []
        for number, each in enumerate(tries):
            with contextlib.suppress(PermissionError):
                each()
                succeeded.append(str(number))
        return succeeded

    assert nobody.run(try_all) == []


def test_an_error_in_words_stays_one_and_any_other_is_told(nobody: Account) -> None:
    def refuse() -> None:
        raise DaskError("Nothing is there.")

    with pytest.raises(DaskError, match=r"^Nothing is there\.$"):
        nobody.run(refuse)
    with pytest.raises(DaskError, match="ZeroDivisionError"):
        nobody.run(lambda: 1 // 0)


def test_an_error_is_told_also_where_the_account_cannot_read_what_a_traceback_needs(
    nobody: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable() -> str:
        raise PermissionError

    monkeypatch.setattr("traceback.format_exc", unreadable)
    with pytest.raises(DaskError, match="ZeroDivisionError"):
        nobody.run(lambda: 1 // 0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_work_that_somebody_kills_is_an_error_in_words(nobody: Account, number: int) -> None:
    with pytest.raises(DaskError, match="as account stranger was ended by something else"):
        nobody.run(lambda: os.kill(os.getpid(), number))


def test_work_that_somebody_stops_is_an_error_and_is_ended(nobody: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_accounts, "PATIENCE", 0.5)
    with pytest.raises(DaskError, match="did not end within"):
        nobody.run(lambda: os.kill(os.getpid(), signal.SIGSTOP))
    assert processes_of(nobody) == {}


def test_an_answer_without_an_end_is_refused(nobody: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_accounts, "LARGEST_ANSWER", 2**20)
    with pytest.raises(DaskError, match="more than 1 MiB is refused"):
        nobody.run(lambda: "x" * 2**21)
    with pytest.raises(DaskError, match="more than 1 MiB is refused"):
        run(["/usr/bin/yes"], account=nobody)
    assert processes_of(nobody) == {}


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, b"\xff", "nul"])
def test_what_is_not_json_is_nothing(text: str | bytes) -> None:
    assert read_json(text) is None


def test_ones_own_work_needs_no_process() -> None:
    assert this_account().run(os.getpid) == os.getpid()
    assert this_account().popen() == {}


def test_a_signal_reaches_the_process_that_was_meant_and_no_other(
    nobody: Account, sleeper: subprocess.Popen[bytes]
) -> None:
    started = start_time(sleeper.pid)
    assert started is not None
    for other in (started - 1, started + 1, 0):
        assert not signal_process(sleeper.pid, other, signal.SIGKILL)
    for number in (-1, 0, 1, -sleeper.pid, 2**22 + 1):
        assert not signal_process(number, start_time(abs(number)) or 0, signal.SIGKILL)
    assert sleeper.poll() is None
    assert signal_process(sleeper.pid, started, signal.SIGKILL)
    assert sleeper.wait(SECONDS) == -signal.SIGKILL
    assert nobody


def test_all_processes_of_an_account_end_with_those_that_they_start_meanwhile(nobody: Account) -> None:
    again = "import os, time\nfor _ in range(3): os.fork()\nos.setsid() if os.getpid() != os.getsid(0) else None\n"
    forking = again + "while True:\n    if os.fork() == 0: time.sleep(600)\n    time.sleep(0.05)\n"
    with subprocess.Popen(["/usr/bin/python3", "-c", forking], **nobody.popen()):
        wait_for(lambda: len(processes_of(nobody)) > 12, SECONDS, "processes to start")
        end_processes(nobody)
    assert processes_of(nobody) == {}


def test_roots_own_processes_are_never_ended() -> None:
    root = Account("root", 0, 0, (0,), "/root")
    with pytest.raises(DaskError, match="processes of account root are refused"):
        end_processes(root)


@pytest.mark.parametrize(("options", "found"), [(["--pid"], False), (["--pid", "--user"], True)], ids=str)
def test_a_process_of_another_container_is_left_alone_and_one_that_hides_in_numbers_of_its_own_is_not(
    nobody: Account, options: list[str], found: bool
) -> None:
    # A container has other numbers of processes; who has no rights gets those only together with users of its own.
    become = ["setpriv", "--reuid", str(nobody.uid), "--regid", str(nobody.gid), "--clear-groups"]
    isolated = ["unshare", *options, "--fork", "/bin/sleep", "600"]
    argv = [*become, *isolated] if found else [*isolated[:-2], *become, *isolated[-2:]]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, start_new_session=True) as process:
        try:
            sleeping = f"pgrep --full --uid {nobody.uid} '^/bin/sleep 600'"

            def has_begun() -> bool:
                return (
                    process.poll() is not None
                    or subprocess.run(sleeping, shell=True, capture_output=True).returncode == 0
                )

            wait_for(has_begun, SECONDS, "the process to start")
            if process.poll() is not None:
                pytest.skip("this host gives nobody numbers of their own")
            number = int(subprocess.check_output(sleeping, shell=True))
            assert (number in processes_of(nobody)) is found
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            subprocess.run(["pkill", "--signal", "KILL", "--uid", str(nobody.uid)], check=False)


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize(
    ("directory_mode", "directory_owner", "file_mode", "file_owner", "only_roots"),
    [
        (0o755, 0, 0o755, 0, True),
        (0o1777, 0, 0o755, 0, True),
        (0o777, 0, 0o755, 0, False),
        (0o755, 12345, 0o755, 0, False),
        (0o755, 0, 0o755, 12345, False),
        (0o755, 0, 0o757, 0, False),
        (0o775, 0, 0o755, 0, False),
    ],
)
def test_a_program_is_roots_alone_only_with_every_directory_above_it(
    tmp_path: Path, directory_mode: int, directory_owner: int, file_mode: int, file_owner: int, only_roots: bool
) -> None:
    place = tmp_path / "place"
    program = place / "python"
    place.mkdir()
    program.touch()
    os.chown(program, file_owner, 0)
    program.chmod(file_mode)
    os.chown(place, directory_owner, 0)
    place.chmod(directory_mode)
    link = tmp_path / "link"
    link.symlink_to(program)
    relative = tmp_path / "relative"
    relative.symlink_to("place/../link")
    assert [is_only_roots(str(path)) for path in (program, link, relative)] == [only_roots] * 3


@pytest.mark.usefixtures("as_root")
def test_a_group_that_may_write_counts_unless_it_is_roots(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.touch()
    os.chown(program, 0, 12345)
    program.chmod(0o775)
    assert not is_only_roots(str(program))
    assert not is_only_roots(str(tmp_path / "nothing"))


def test_accounts_are_found_by_name() -> None:
    found = find_account(pwd.getpwuid(0).pw_name)
    assert found is not None
    assert (found.uid, found.is_other) == (0, False)
    assert find_account("nobody-of-that-name") is None
    assert start_time(os.getpid()) is not None
