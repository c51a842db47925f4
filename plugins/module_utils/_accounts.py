# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Acting as an account that is not to be trusted, and ending its processes (private to this collection).

Whoever has a task on a cluster runs code as the cluster's account. So root does as that account, in a process of its
own, whatever touches what the account can write or speaks to what it runs. That process has no way back to root. What
it says is data: JSON of bounded size, which came in time.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import pwd
import select
import signal
import stat
import subprocess
import time
import traceback
import typing as t
from dataclasses import dataclass

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._wait import poll

LARGEST_ANSWER = 64 * 2**20
"""Bytes of JSON that are taken from a process of an account."""
PATIENCE = 120.0
"""Seconds that work of an account may take beyond what it is meant to: it can be stopped by any task."""
END_SECONDS = 30.0
"""Seconds within which all processes of an account have to be gone after they were killed."""
QUIET_LOOKS = 50
"""How often in a row no process has to be found before none counts as there."""
INHERITED = ("LANG", "PATH", "TZ")
"""What a process of an account has of root's environment, which may hold secrets."""

_Outcome = t.TypeVar("_Outcome")


@dataclass(frozen=True)
class Account:
    """A user of this host. ``groups``: numbers of all its groups. ``home``: what its processes have as ``HOME``."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str

    @property
    def is_other(self) -> bool:
        """Whether this process is root and has to become the account."""
        return os.geteuid() == 0 and self.uid != 0

    def popen(self) -> dict[str, t.Any]:
        """Returns the options with which ``subprocess`` starts a process of this account, for good."""
        if not self.is_other:
            return {}
        # A session of its own, as it could type into a terminal that it has in common with root.
        return {"user": self.uid, "group": self.gid, "extra_groups": self.groups, "start_new_session": True}

    def environment(self) -> dict[str, str]:
        """Returns the environment variables of its processes: this process's own, or little of root's."""
        if not self.is_other:
            return dict(os.environ)
        own = {"HOME": self.home, "USER": self.name, "LOGNAME": self.name}
        return {**{name: os.environ[name] for name in INHERITED if name in os.environ}, **own}

    def run(self, work: t.Callable[[], _Outcome], seconds: float = 0) -> _Outcome:
        """Returns what ``work`` returns when this account does it; ``work`` imports nothing.

        :param work: Returns what JSON holds.
        :param seconds: How long it is meant to take, at most.
        :raises DaskError: the work did; or its process ended early, did not end, or said too much.
        """
        return self._run_in_process(work, seconds + PATIENCE) if self.is_other else work()

    def output(
        self, argv: t.Sequence[str], environment: t.Mapping[str, str], seconds: float = PATIENCE
    ) -> tuple[int, str]:
        """Runs a command as this account, and returns its exit status and what it wrote, errors among it.

        :raises DaskError: it wrote too much, or took longer than so many seconds.
        :raises OSError: it cannot be run.
        """
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=dict(environment),
            **self.popen(),
        )
        with process:
            said = None
            try:
                said = read_answer(t.cast("t.IO[bytes]", process.stdout).fileno(), seconds, until_line=False)
                if said is not None:
                    process.wait(END_SECONDS)  # having said all, it ends
            except subprocess.TimeoutExpired:
                said = None
            finally:
                process.kill()
        if said is None:
            raise DaskError("'{0}' as account {1} took more than {2:g} s.".format(" ".join(argv), self.name, seconds))
        return process.returncode, said.decode(errors="replace")

    def _run_in_process(self, work: t.Callable[[], t.Any], seconds: float) -> t.Any:
        reading, writing = os.pipe()
        process = os.fork()
        if not process:
            os.close(reading)
            _answer(self, work, writing)
        os.close(writing)
        try:
            text = read_answer(reading, seconds, until_line=False)
        finally:
            os.close(reading)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)  # a child that nobody has waited for: the number is its own
            status = os.waitpid(process, 0)[1]
        if text is None:
            raise DaskError(
                "Work as account {0} did not end within {1:g} s. Run this again.".format(self.name, seconds)
            )
        outcome = read_json(text)
        if not isinstance(outcome, dict) or not {"outcome", "error"} & set(outcome):
            raise DaskError(
                "Work as account {0} was ended by something else (wait status {1}). Run this again.".format(
                    self.name, status
                )
            )
        if "error" in outcome:
            raise DaskError(str(outcome["error"]))
        return outcome["outcome"]


def this_account() -> Account:
    """Returns whom this process acts as."""
    return _account(pwd.getpwuid(os.geteuid()))


def find_account(name: str) -> Account | None:
    """Returns the account of this name, or None where this host has none."""
    try:
        return _account(pwd.getpwnam(name))
    except KeyError:
        return None


def account_numbers(name: str) -> str:
    """Returns user and group of an account in numbers, as containers need them, such as ``998:998``; empty for none."""
    found = find_account(name) if name else None
    return "{0}:{1}".format(found.uid, found.gid) if found else ""


def become(account: Account) -> None:
    """Makes this process the account's, for good: all its uids, gids and groups.

    :raises DaskError: this process could go back.
    """
    os.setgroups(account.groups)
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    with contextlib.suppress(PermissionError):
        os.setresuid(0, 0, 0)
        raise DaskError("This process is account {0} and could still become root.".format(account.name))


def read_answer(descriptor: int, seconds: float, until_line: bool) -> bytes | None:
    """Returns what a process writes, up to its end or to the end of its first line; None if that takes too long.

    :raises DaskError: it is more than ``LARGEST_ANSWER``.
    """
    parts = []
    size = 0
    end = time.monotonic() + seconds
    while True:
        left = end - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            return None
        part = os.read(descriptor, 2**16)
        parts.append(part)
        size += len(part)
        if size > LARGEST_ANSWER:
            raise DaskError(
                "An answer of more than {0} MiB is refused. Ask for less, or look who changed what answers.".format(
                    LARGEST_ANSWER // 2**20
                )
            )
        if not part or (until_line and b"\n" in part):
            return b"".join(parts)


def read_json(text: bytes | str) -> t.Any:
    """Returns what JSON says, or None if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def is_only_roots(path: str) -> bool:
    """Whether root alone can change what is at ``path``: that itself, every directory and every link on the way."""
    left = os.path.abspath(path).split("/")[::-1]
    current, links = "/", 0
    while left:
        name = left.pop()
        current = os.path.normpath(os.path.join(current, name))
        try:
            found = os.lstat(current)
        except OSError:
            return False
        if found.st_uid != 0:
            return False
        if os.path.islink(current):
            links += 1
            if links > 40:
                return False
            target = os.readlink(current)
            left += target.split("/")[::-1]
            current = "/" if target.startswith("/") else os.path.dirname(current)
            continue
        # Also for root's own group: with an access list, what the group may is what anybody on the list may.
        if found.st_mode & 0o022 and not (stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX):
            return False
    return True


def start_time(process: int) -> int | None:
    """Returns when a process started, in ticks since the host did; None if there is no such process.

    Together with the number it names a process, as numbers are used again.
    """
    try:
        with open("/proc/{0}/stat".format(process), "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def signal_process(process: int, started: int, number: int) -> bool:
    """Sends a signal to the process of that number which started then, and to no other.

    :returns: Whether it is there.
    """
    if process <= 1:
        return False
    handle = _process_handle(process)
    try:
        if start_time(process) != started:
            return False
        if handle is None:
            os.kill(process, number)
        else:
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        if handle is not None:
            os.close(handle)
    return True


def _process_handle(process: int) -> int | None:
    """Returns a descriptor that stays with a process; None where the kernel is older than Linux 5.3."""
    try:
        return os.pidfd_open(process)
    except (AttributeError, OSError):
        return None


def end_processes(account: Account) -> None:
    """Kills every process that runs as an account, except for those of other containers on this host.

    They are stopped first, all of them, so that none starts others meanwhile; and looked for again and again, as one
    that forks and ends all the time is easily missed.

    :raises DaskError: some of them are still there; names them.
    """
    if not account.is_other:
        raise DaskError("The processes of account {0} are refused: they may be anybody's.".format(account.name))

    quiet = 0

    def gone() -> bool:
        nonlocal quiet
        found = processes_of(account)
        quiet = 0 if found else quiet + 1
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process, started in found.items():
                with contextlib.suppress(PermissionError):
                    signal_process(process, started, number)
        return quiet >= QUIET_LOOKS

    if not poll(gone, END_SECONDS, longest_pause=0.02):
        left = processes_of(account)
        if left:
            raise DaskError(
                "Account {0} still has processes, which cannot be killed: {1}. Look what they wait for ('ps -o "
                "pid,stat,wchan,cmd -u {0}'), and run this again.".format(account.name, ", ".join(map(str, left)))
            )


def processes_of(account: Account) -> dict[int, int]:
    """Returns the start times of an account's processes by their numbers.

    A container that somebody else runs may have the same number for another account; it has other process numbers and
    this host's users. A task that hides in numbers of its own has to have users of its own, too.
    """
    found = {}
    for path in glob.glob("/proc/[0-9]*"):
        process = int(os.path.basename(path))
        started = start_time(process)
        try:
            with open(path + "/status", encoding="utf-8", errors="replace") as file:
                fields = dict(line.rstrip("\n").split(":", 1) for line in file if ":" in line)
            elsewhere = _is_elsewhere(path, fields)
        except OSError:  # it has ended
            continue
        if started is not None and _is_alive(path) and not elsewhere and str(account.uid) in fields["Uid"].split():
            found[process] = started
    return found


def _is_alive(path: str) -> bool:
    """Whether a process has a thread that lives; its first one may have ended before the others."""
    for thread in glob.glob(path + "/task/*/stat"):
        with contextlib.suppress(OSError), open(thread, "rb") as file:
            if file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X"):
                return True
    return False


def _is_elsewhere(path: str, fields: t.Mapping[str, str]) -> bool:
    """Whether a process has numbers of processes of its own, but this host's users."""
    with open(path + "/uid_map", encoding="utf-8") as theirs, open("/proc/self/uid_map", encoding="utf-8") as ours:
        return len(fields.get("NSpid", "").split()) > 1 and theirs.read() == ours.read()


def _account(entry: pwd.struct_passwd) -> Account:
    groups = tuple(sorted(os.getgrouplist(entry.pw_name, entry.pw_gid)))
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir)


def _answer(account: Account, work: t.Callable[[], t.Any], writing: int) -> t.NoReturn:
    """In a process of its own: does the work as the account, writes what came of it, and ends."""
    try:
        try:
            variables = account.environment()
            os.setsid()
            become(account)
            os.chdir("/")
            os.umask(0o022)
            os.environ.clear()  # processes that it starts have it, too
            os.environ.update(variables)
            answer: dict[str, t.Any] = {"outcome": work()}
        except DaskError as error:
            answer = {"error": str(error)}
        except BaseException as error:
            answer = {"error": _told(error)}
        with open(writing, "wb") as file:
            file.write(json.dumps(answer).encode())
    finally:
        os._exit(0)


def _told(error: BaseException) -> str:
    """Returns a traceback; the error alone where the account cannot read what a traceback is made with."""
    try:
        return traceback.format_exc()
    except Exception:
        return repr(error)
