# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Jobs as records on disk, and the process that runs each (private to this collection).

A job lives in a directory of its own, which its account alone can enter; ``_environment_side`` says which files are in
it. A lock on ``lock``, which the job's process holds for as long as it lives, tells a running job from one whose
process was killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.flotilla.dask.plugins.module_utils import _environment_side
from ansible_collections.flotilla.dask.plugins.module_utils._accounts import Account, signal_process
from ansible_collections.flotilla.dask.plugins.module_utils._client import cluster_account
from ansible_collections.flotilla.dask.plugins.module_utils._clusters import Description, user_directory
from ansible_collections.flotilla.dask.plugins.module_utils._clusters import environment as cluster_environment
from ansible_collections.flotilla.dask.plugins.module_utils._digest import digest
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._files import (
    last_lines,
    make_directory,
    read_text,
    remove_tree,
    write_text,
)
from ansible_collections.flotilla.dask.plugins.module_utils._secrets import DIRECTORY, NAMES, write_secrets
from ansible_collections.flotilla.dask.plugins.module_utils._service import module_text
from ansible_collections.flotilla.dask.plugins.module_utils._wait import poll, wait_for
from ansible_collections.flotilla.dask.plugins.module_utils.launch.layout import USER_HOME

RUNNER = module_text(_environment_side)
"""Read at once: who has become another account cannot read what Ansible has brought for root."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
CANCEL_SECONDS = 30.0
LOCK_SECONDS = 2.0
LAST_LINES = 20
SECRETS = "secrets"
"""Name of the directory with the secrets of a job that runs."""


@dataclass(frozen=True)
class Owner:
    """Who jobs run as, and the directory where they are.

    Everything that this module does with jobs, it does as their account, inside of ``account.run``.
    """

    account: Account
    jobs: str


def owner(cluster: Description) -> Owner:
    """Root's jobs run as the cluster's account; anybody else's as themselves.

    :raises DaskError: the cluster's account is gone.
    """
    account = cluster_account(cluster)
    jobs = cluster["jobs"]
    if account.name != cluster["user"] and not os.access(os.path.dirname(jobs), os.W_OK):
        jobs = os.path.join(user_directory(), USER_HOME, cluster["cluster"], "jobs")
    return Owner(account, jobs)


def check_name(name: str) -> None:
    """A job's name is a directory's name. :raises DaskError: it isn't allowed."""
    if not NAME.fullmatch(name):
        raise DaskError(
            "name: {0!r} is refused. Allowed: at most 100 letters, digits, '.', '_' and '-', the first a letter or a "
            "digit.".format(name)
        )


def specification(
    name: str,
    function: str | None,
    script: str | None,
    content: str | None,
    arguments: t.Any,
    secrets: t.Iterable[str] = (),
) -> dict[str, t.Any]:
    """Returns what makes a job the job that it is; two jobs of the same name with equal ones are the same job.

    :param content: The script's text, where it is brought to the host with the job.
    :param secrets: Their names. Values are no part of it: a job that has finished need not run again with a new token.
    :raises DaskError: a value isn't allowed.
    """
    check_name(name)
    if function and not FUNCTION.fullmatch(function):
        raise DaskError(
            "function: {0!r} is refused. Allowed: package.module:callable, such as 'wordcount:count_words'.".format(
                function
            )
        )
    return {
        "name": name,
        "function": function or "",
        "script": script or "",
        "content": digest(content) if content is not None else "",
        "arguments": _arguments(arguments, keywords=bool(function)),
        **({"secrets": sorted(secrets)} if secrets else {}),
    }


def _arguments(value: t.Any, keywords: bool) -> t.Any:
    allowed = "a list, or a JSON list" + (", or a mapping of keywords" if keywords else " of words for the script")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise DaskError(
                "arguments: {0!r} is refused: not JSON ({1}). Allowed: {2}.".format(value, error, allowed)
            ) from error
    if value is None:
        value = []
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise DaskError("arguments: {0!r} is refused: {1}. Allowed: {2}.".format(value, error, allowed)) from error
    if isinstance(value, list) or (keywords and isinstance(value, dict)):
        return value
    raise DaskError("arguments: {0!r} is refused. Allowed: {1}.".format(value, allowed))


class Job:
    """One named job in the directory of an account's jobs.

    :raises DaskError: the name isn't allowed.
    """

    def __init__(self, who: Owner, name: str) -> None:
        check_name(name)
        self.who = who
        self.name = name
        self.directory = os.path.join(who.jobs, name)

    def record(self) -> dict[str, t.Any] | None:
        """Returns the job as it stands, or None where there is none.

        ``state``: running, finished, failed or cancelled. A job whose process ended without a word has failed, and so
        has one whose record is not what this module wrote.
        """
        alive = self._lock_is_held()
        try:
            wanted, state, result = map(self._read, ("specification.json", "state.json", "result.json"))
            if wanted is None or state is None:
                return None
            return self._describe(wanted, state, result, alive)
        except (ArithmeticError, AttributeError, KeyError, OSError, TypeError, ValueError, DaskError) as error:
            return {
                "name": self.name,
                "state": "failed",
                "reason": "record",
                "message": "its record in {0} is damaged ({1})".format(self.directory, error),
                **dict.fromkeys(("function", "script", "digest", "output"), ""),
                **dict.fromkeys(("started", "seconds", "attempts"), 0),
                "arguments": [],
                "secrets": [],
                "result": None,
                "progress": {"done": 0, "total": 0},
                "ended": None,
                "directory": self.directory,
            }

    def _describe(
        self, wanted: dict[str, t.Any], state: dict[str, t.Any], result: t.Any, alive: bool
    ) -> dict[str, t.Any]:
        if state["state"] == "running" and not alive:
            state.update(
                state="failed",
                reason="lost",
                message="The job's process ended without recording a result: it was killed, or its host went down.",
            )
        ended = state.get("ended") or time.time()
        return {
            "name": self.name,
            "state": state["state"],
            "reason": state.get("reason", ""),
            "message": state.get("message", ""),
            "function": wanted["function"],
            "script": wanted["script"],
            "arguments": wanted["arguments"],
            "secrets": wanted.get("secrets", []),
            "digest": wanted["digest"],
            "result": result if state["state"] == "finished" else None,
            "progress": state.get("progress", {"done": 0, "total": 0}),
            "attempts": state["attempts"],
            "started": state["started"],
            "ended": state.get("ended"),
            "seconds": round(ended - state["started"], 3),
            "directory": self.directory,
            "output": self._output(),
        }

    def submit(
        self,
        wanted: dict[str, t.Any],
        content: str | None,
        cluster: Description,
        limits: dict[str, t.Any],
        secrets: t.Mapping[str, str] | None = None,
    ) -> None:
        """Replaces the record by a new one and starts the job's process, detached.

        :param secrets: Names and values. The files with them are there for as long as the job runs.
        :param limits: timeout (seconds, 0 for none), connect_timeout (seconds) and retries; not part of what a job is.
        :raises DaskError: the job runs already, or can't be started.
        """
        script = wanted["script"]
        make_directory(self.who.jobs, 0o700)
        if content is None and script and not os.access(script, os.R_OK):
            raise DaskError(
                "script: {0!r} is refused: there is no such file on this host that the user '{1}' can read.".format(
                    script, self.who.account.name
                )
            )
        lock = self._take_lock()
        self._clear()
        os.mkdir(self._path("work"), 0o700)
        if content is not None:
            script = self._path(os.path.basename(script) or "script.py")
            write_text(script, content, 0o600)
        full = {
            **wanted,
            **limits,
            "script": script,
            "digest": digest(wanted),
            "scheduler": cluster["scheduler"],
            "batch": cluster.get("running"),
        }
        runner = self._path("runner.py")
        state = {"state": "running", "attempts": 0, "started": time.time()}
        write_text(runner, RUNNER, 0o600)
        write_text(self._path("specification.json"), json.dumps(full, indent=2), 0o600)
        write_text(self._path("state.json"), json.dumps(state), 0o600)
        if secrets:
            write_secrets(self._path(SECRETS), secrets, 0o700)
        output = os.open(self._path("output.log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            words = [cluster["python"], runner, "job", self.directory]
            self._start(words, cluster, lock, output, wanted.get("secrets", []))
        finally:
            os.close(output)
            os.close(lock)

    def cancel(self) -> None:
        """Ends a running job and waits until its process is gone. :raises DaskError: it didn't go."""
        if not self._lock_is_held():
            return
        try:
            state = self._read("state.json") or {}
            signal_process(int(state["pid"]), int(state["pid_started"]), signal.SIGTERM)
        except (KeyError, OSError, OverflowError, TypeError, ValueError, DaskError) as error:
            raise DaskError(
                "Job '{0}' runs, and its record in {1} does not name its process ({2!r}). End that process by "
                "hand ('fuser {1}/lock' names it), and run this again.".format(self.name, self.directory, error)
            ) from error
        wait_for(lambda: not self._lock_is_held(), CANCEL_SECONDS, "job '{0}' to end".format(self.name))

    def tidy(self) -> None:
        """Closes the job's directory to others, and removes the secrets of a process that was killed."""
        for directory in (self.who.jobs, self.directory):
            if os.path.isdir(directory) and not os.path.islink(directory):
                make_directory(directory, 0o700)
        if not self._lock_is_held():
            remove_tree(self._path(SECRETS))

    def remove(self) -> None:
        """Removes the record of a job that doesn't run."""
        remove_tree(self.directory)

    def _read(self, name: str) -> t.Any:
        """Returns what a file of the job says, or None where there is none. :raises ValueError: it isn't JSON."""
        text = read_text(self._path(name))
        try:
            return None if text is None else json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError("{0}: {1}".format(name, error)) from error

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def _output(self) -> str:
        try:
            return last_lines(self._path("output.log"), LAST_LINES)
        except (OSError, DaskError) as error:  # what the job has put there instead
            return "(its output cannot be read: {0})".format(error)

    def _take_lock(self) -> int:
        make_directory(self.directory, 0o700)
        lock = os.open(self._path("lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        # Tried more than once, as whoever looks whether a job runs holds the lock for an instant.
        if not poll(lambda: _try_lock(lock), LOCK_SECONDS):
            os.close(lock)
            raise DaskError("Job '{0}' was started by somebody else at the same moment. Ask again.".format(self.name))
        return lock

    def _lock_is_held(self) -> bool:
        try:
            lock = os.open(self._path("lock"), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:  # there is none, or something that nobody locks
            return False
        try:
            return not _try_lock(lock)
        finally:
            os.close(lock)

    def _clear(self) -> None:
        for name in os.listdir(self.directory):
            if name != "lock":
                remove_tree(self._path(name))

    def _start(self, argv: list[str], cluster: Description, lock: int, output: int, secrets: t.Iterable[str]) -> None:
        own = {"DASK_SCHEDULER_ADDRESS": cluster["scheduler"]}
        if secrets:
            own.update({DIRECTORY: self._path(SECRETS), NAMES: " ".join(secrets)})
        try:
            subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._path("work"),
                env={**os.environ, **cluster_environment(cluster), **own},
                pass_fds=[lock],
                start_new_session=True,
            )
        except OSError as error:
            raise DaskError(
                "The job's process cannot be started: {0}. Run flotilla.dask.site.".format(error)
            ) from error


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def names(who: Owner) -> list[str]:
    """Returns the names of an account's jobs, sorted. Other names in their directory are no jobs."""
    try:
        return sorted(
            entry.name
            for entry in os.scandir(who.jobs)
            if NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
        )
    except FileNotFoundError:
        return []


def cancel_all(who: Owner) -> None:
    """Ends all jobs that run. :raises DaskError: one didn't end."""
    for name in names(who):
        Job(who, name).cancel()


def describe_failure(record: t.Mapping[str, t.Any]) -> str:
    """Returns in words how a job ended that didn't finish, and what to do."""
    text = "Job '{0}' {1}: {2}".format(record["name"], record["state"], record["message"])
    if record["output"] and record["reason"] in ("error", "lost"):
        text += "\nIts last lines:\n" + record["output"]
    return text + "\nIts files are in {0}. Set 'rerun: true' to run it again.".format(record["directory"])
