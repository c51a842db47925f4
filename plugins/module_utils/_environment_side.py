# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What runs with the interpreter of the cluster's environment, where distributed is (private to this collection).

It is handed over as text, so it imports nothing of the collection. As ``job DIRECTORY`` it is a job's own process,
started detached: it outlives the play, keeps the job's record up to date, and starts the work afresh when the
scheduler, which keeps everything in memory, was lost meanwhile. As ``script DIRECTORY`` it runs the script of a job,
whose arguments others would see in the list of processes. As ``watch ADDRESS SECONDS`` it tells a module how a
scheduler is, and as ``ask ADDRESS SECONDS QUESTION`` what it answers.

Files in a job's directory: ``specification.json`` (what to do), ``state.json`` (how it stands), ``result.json`` (what
the function returned), ``output.log``, ``work/`` (the working directory), ``secrets/`` (while it runs).
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import runpy
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
import traceback
import typing as t

MONITOR_SECONDS = 1.0
RETURN_SECONDS = 600.0
"""How long a job waits for a lost scheduler to come back."""
ANSWER_SECONDS = 5.0
LAST_LINES = 20
WHO = {"op": "identity", "n_workers": 0}
PROGRESS = {"op": "get_task_prefix_states"}
RENEWAL = "the playbook flotilla.dask.site renews certificates"
ENVIRONMENT = {"op": "flotilla_environment"}
NAMES, DIRECTORY = "FLOTILLA_SECRETS", "CREDENTIALS_DIRECTORY"
"""Variables with the names of a job's secrets, and with the directory that has a file for each."""
METRICS = ("memory", "spilled_bytes", "task_counts")
"""What is told of a worker's many metrics."""


class JobFailedError(Exception):
    """The job failed. ``reason``: import, error, exit, result, timeout, scheduler or environment."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class JobCancelledError(Exception):
    """Somebody asked for the job's end."""


class Runner:
    """One job. :param directory: the job's directory, absolute."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.specification = self._read("specification.json")
        self.state = self._read("state.json")
        self.address = self.specification["scheduler"]
        self.scheduler: str | None = None
        self.cancelled = threading.Event()
        self.done = threading.Event()
        self.child: subprocess.Popen[bytes] | None = None
        self.outcome: t.Any = None
        self.error: JobFailedError | None = None

    def run(self) -> None:
        """Runs the job to its end and records it."""
        signal.signal(signal.SIGTERM, lambda *_ignored: self.cancelled.set())
        process = {"pid": os.getpid(), "pid_started": start_time()}
        self._update(state="running", attempts=self.state["attempts"] + 1, **process)
        try:
            load_secrets()
            work = self._prepare()
            self._connect()
            threading.Thread(target=self._work, args=(work,), daemon=True).start()
            self._monitor()
            if self.error:
                raise self.error
            if self.outcome is not None:
                self._write("result.json", self.outcome)
            self._end("finished")
        except JobCancelledError:
            self._end("cancelled", reason="cancelled", message="It was cancelled.")
        except JobFailedError as failure:
            self._end("failed", reason=failure.reason, message=str(failure))

    def _prepare(self) -> t.Callable[[], t.Any]:
        if self.specification["script"]:
            return self._run_script
        function = load_function(self.specification["function"])
        arguments = self.specification["arguments"]
        if isinstance(arguments, dict):
            return lambda: function(**arguments)
        return lambda: function(*arguments)

    def _connect(self) -> None:
        """Waits for the scheduler: as long as was asked for at first, longer for one that was lost."""
        first = self.state["attempts"] == 1
        patience = self.specification["connect_timeout"] if first else RETURN_SECONDS
        end = time.monotonic() + patience
        while True:
            self._check_limits()
            try:
                timeout = min(patience, ANSWER_SECONDS)
                identity, said = ask(self.address, timeout, WHO, ENVIRONMENT)
                self.scheduler = str(identity["id"])
                self._check_environment(timeout, said)
                return
            except OSError as error:
                if time.monotonic() >= end:
                    raise JobFailedError(
                        "scheduler",
                        "No scheduler answers at {0} within {1:g} s ({2}).".format(self.address, patience, error),
                    ) from error
            self.cancelled.wait(0.2)

    def _check_environment(self, timeout: float, said: dict[str, str] | None) -> None:
        """Refuses to be a client with other software than the scheduler's, or says so where that is allowed."""
        difference = compare_environments(self.address, timeout, said)["difference"]
        if not difference:
            return
        words = "The software on this host differs: {0}.".format(difference)
        if os.environ.get("FLOTILLA_MISMATCH") != "warn":
            raise JobFailedError(
                "environment", words + " Run flotilla.dask.site, or set dask_environment_mismatch to warn."
            )
        sys.stdout.write(words + "\n")
        sys.stdout.flush()

    def _work(self, work: t.Callable[[], t.Any]) -> None:
        try:
            if self.specification["script"]:
                work()
            else:
                from distributed import Client

                Client(self.address, timeout=ANSWER_SECONDS, name="job-" + self.specification["name"])
                self.outcome = as_json(work())
        except JobFailedError as failure:
            self.error = failure
        except SystemExit as error:
            if error.code not in (None, 0):
                self.error = JobFailedError("exit", "The function asked for exit status {0}.".format(error.code))
        except BaseException as error:
            traceback.print_exc()
            last = traceback.format_exception_only(type(error), error)[-1].strip()
            self.error = JobFailedError("error", last)
        finally:
            self.done.set()

    def _run_script(self) -> None:
        script = self.specification["script"]
        words = [sys.executable, os.path.abspath(__file__), "script", self.directory]
        self.child = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
        status = self.child.wait()
        if status:
            ending = "exit status {0}".format(status) if status > 0 else "signal {0}".format(-status)
            lines = last_lines(os.path.join(self.directory, "output.log"), LAST_LINES)
            raise JobFailedError("exit", "{0} ended with {1}. Its last lines:\n{2}".format(script, ending, lines))

    def _monitor(self) -> None:
        """Returns when the work has ended; starts afresh if it ended, or can only end, because of a lost scheduler."""
        while not self.done.wait(MONITOR_SECONDS):
            self._check_limits()
            try:
                identity, prefixes = ask(self.address, ANSWER_SECONDS, WHO, PROGRESS)
            except OSError:
                continue
            if identity["id"] != self.scheduler:
                self._start_afresh()
            self._update(progress=count_tasks(prefixes))
        if self.error and self.error.reason != "result" and self._scheduler_lost():
            self._start_afresh()

    def _scheduler_lost(self) -> bool:
        try:
            return scheduler_id(self.address, ANSWER_SECONDS) != self.scheduler
        except OSError:
            return True

    def _start_afresh(self) -> None:
        """Replaces this process, and so whatever hangs on the lost scheduler, by a new one with the same record."""
        self._check_limits()
        if self.state["attempts"] > self.specification["retries"]:
            raise JobFailedError(
                "scheduler",
                "The scheduler was lost {0} times while the job ran; it may be the job that ends it.".format(
                    self.state["attempts"]
                ),
            )
        sys.stdout.write("The scheduler was lost; the job is submitted again.\n")
        sys.stdout.flush()
        self._stop_child()
        os.execv(sys.executable, [sys.executable, os.path.abspath(__file__), "job", self.directory])

    def _check_limits(self) -> None:
        if not os.path.isdir(self.directory):
            self._stop_child()
            os._exit(1)
        if self.cancelled.is_set():
            raise JobCancelledError
        batch = self.specification["batch"]
        if batch and (time.time() > batch["ends"] or not os.path.exists(batch["endpoint"])):
            raise JobFailedError(
                "scheduler", "Batch job {0}, which the cluster was in, has ended.".format(batch["job"])
            )
        limit = self.specification["timeout"]
        if limit and time.time() - self.state["started"] > limit:
            raise JobFailedError("timeout", "It ran out of time: after {0:g} s it was cancelled.".format(limit))

    def _stop_child(self) -> None:
        if self.child and self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGTERM)
            try:
                self.child.wait(ANSWER_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self.child.pid, signal.SIGKILL)

    def _end(self, state: str, **more: t.Any) -> None:
        """Records the end, then leaves at once: the client's tasks end with its connection, hanging threads with us."""
        self._stop_child()
        sys.stdout.flush()
        sys.stderr.flush()
        shutil.rmtree(os.path.join(self.directory, "secrets"), ignore_errors=True)
        self._update(state=state, ended=time.time(), **more)
        os._exit(0)

    def _update(self, **changes: t.Any) -> None:
        self.state.update(changes)
        self._write("state.json", self.state)

    def _read(self, name: str) -> t.Any:
        with open(os.path.join(self.directory, name), encoding="utf-8") as file:
            return json.load(file)

    def _write(self, name: str, content: t.Any) -> None:
        path = os.path.join(self.directory, name)
        with open(path + ".part", "w", encoding="utf-8", opener=private) as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(path + ".part", path)


def run_script(directory: str) -> None:
    """Runs the script of a job as Python does with a script, with its arguments in ``sys.argv`` alone."""
    with open(os.path.join(directory, "specification.json"), encoding="utf-8") as file:
        wanted = json.load(file)
    sys.argv = [wanted["script"], *map(str, wanted["arguments"])]
    sys.path[0] = os.path.dirname(os.path.realpath(wanted["script"]))
    runpy.run_path(wanted["script"], run_name="__main__")


def private(path: str, flags: int) -> int:
    """Opens a file that nobody else can read, for ``open``."""
    return os.open(path, flags, 0o600)


def load_secrets() -> None:
    """Makes environment variables of the secrets that the job has as files. :raises JobFailedError: one is missing."""
    for name in os.environ.get(NAMES, "").split():
        try:
            with open(os.path.join(os.environ.get(DIRECTORY, ""), name), encoding="utf-8", newline="") as file:
                os.environ[name] = file.read()
        except (OSError, ValueError) as error:
            raise JobFailedError(
                "error", "The secret {0} cannot be read ({1}).".format(name, type(error).__name__)
            ) from None


def start_time() -> int:
    """Returns when this process started, in ticks since its host did: as numbers of processes are used again."""
    with open("/proc/self/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def load_function(name: str) -> t.Callable[..., t.Any]:
    """Returns the function called ``package.module:callable``.

    :raises JobFailedError: it can't be imported; says where it was looked for.
    """
    module_name, _colon, attributes = name.partition(":")
    try:
        found: t.Any = importlib.import_module(module_name)
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
    except Exception as error:
        if not isinstance(error, (ImportError, AttributeError)):
            traceback.print_exc()
        places = "\n".join("  " + path for path in sys.path if path)
        raise JobFailedError(
            "import",
            "{0} cannot be imported ({1}: {2}). Looked in:\n{3}".format(name, type(error).__name__, error, places),
        ) from error
    if not callable(found):
        raise JobFailedError("import", "{0} is a {1}, which cannot be called.".format(name, type(found).__name__))
    return t.cast("t.Callable[..., t.Any]", found)


def as_json(value: t.Any) -> t.Any:
    """Returns ``value`` if it can be stored. :raises JobFailedError: it isn't JSON."""
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise JobFailedError(
            "result",
            "The function returned what JSON cannot hold ({0}). Return numbers, strings, lists and mappings, and write "
            "anything else to a file.".format(error),
        ) from error
    return value


def last_lines(path: str, number: int) -> str:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 16384))
        return b"\n".join(file.read().splitlines()[-number:]).decode(errors="replace")


def count_tasks(prefixes: dict[str, dict[str, int]]) -> dict[str, int]:
    """Returns how many tasks the scheduler has, and how many are done, from its counts by kind and state."""
    total = done = 0
    for states in prefixes.values():
        total += sum(states.values())
        done += sum(states.get(state, 0) for state in ("memory", "released", "erred"))
    return {"done": done, "total": total}


def ask(address: str, timeout: float, *questions: dict[str, t.Any]) -> list[t.Any]:
    """Returns a scheduler's answers to some of its operations, without becoming one of its clients.

    :param timeout: Seconds for the connection and again for each answer.
    :raises OSError: it doesn't answer in time.
    """
    return asyncio.run(_ask(address, timeout, questions))


async def _ask(address: str, timeout: float, questions: t.Iterable[dict[str, t.Any]]) -> list[t.Any]:
    from distributed.comm import connect
    from distributed.core import send_recv

    identity = _identity(address)
    try:
        # connect's own limit leaves out the handshake, in which a hung scheduler never says a word.
        comm = await asyncio.wait_for(connect(address, timeout=timeout, **identity), timeout)
        try:
            return [await asyncio.wait_for(send_recv(comm, **question), timeout) for question in questions]
        finally:
            await comm.close()
    except asyncio.TimeoutError as error:
        raise OSError("no answer") from error
    except OSError as error:
        raise OSError(explain_refusal(error)) from error


def _identity(address: str) -> dict[str, t.Any]:
    """What Dask's configuration says to show and to trust. :raises OSError: it isn't there, or nothing for TLS is."""
    from distributed.security import Security

    try:
        identity: dict[str, t.Any] = Security().get_connection_args("client")
    except OSError as error:
        raise OSError("the certificates that Dask's configuration names are not usable: {0}".format(error)) from error
    if address.startswith("tls:") and identity["ssl_context"] is None:
        raise OSError("this user has no certificate for the cluster; the playbook flotilla.dask.client makes one")
    return identity


def explain_refusal(error: BaseException) -> str:
    """Returns why a connection failed: what TLS said about certificates, where that is at the bottom of it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "the scheduler's certificate is refused: {0}; {1}".format(cause.verify_message, RENEWAL)
        if isinstance(cause, ssl.SSLError) and "CERTIFICATE" in str(cause.reason):
            said = str(cause.reason).partition("ALERT_")[2].lower().replace("_", " ") or cause.reason
            return "the scheduler refuses this host's certificate: {0}; {1}".format(said, RENEWAL)
        cause = cause.__cause__ or cause.__context__
    return str(error)


def scheduler_id(address: str, timeout: float) -> str:
    """Returns what tells a scheduler from the one after a restart. :raises OSError: it doesn't answer in time."""
    return str(ask(address, timeout, WHO)[0]["id"])


def compare_environments(address: str, timeout: float, said: dict[str, str] | None) -> dict[str, str]:
    """Returns the ``environment`` of a scheduler, and in words as ``difference`` how this process's isn't the same.

    Both are empty for a scheduler that doesn't know, and the difference is for a process that has none to compare.

    :param said: What the scheduler answered to ``ENVIRONMENT``; None from one that doesn't know the question.
    :raises OSError: it doesn't answer in time.
    """
    mine = os.environ.get("FLOTILLA_ENVIRONMENT", "")
    if said is None or mine in ("", said["environment"]):
        return {"environment": said["environment"] if said else "", "difference": ""}
    in_process = importlib.import_module("flotilla_in_process")
    [said] = ask(address, timeout, {**ENVIRONMENT, "packages": in_process.installed_packages()})
    return {"environment": said["environment"], "difference": in_process.describe_mismatch(mine, said)}


def scheduler_state(address: str, timeout: float) -> dict[str, t.Any]:
    """Returns the scheduler's identity with all workers, their metrics as far as they are told, ``versions``, and what
    ``compare_environments`` returns.

    :raises OSError: it doesn't answer in time.
    """
    identity, versions, said = ask(
        address, timeout, {"op": "identity", "n_workers": -1}, {"op": "versions"}, ENVIRONMENT
    )
    for worker in identity["workers"].values():
        worker["metrics"] = {key: worker["metrics"][key] for key in METRICS if key in worker["metrics"]}
    return {**identity, "versions": versions, **compare_environments(address, timeout, said)}


def watch(address: str, timeout: float) -> None:
    """Answers every line that comes in with the scheduler's state as a line of JSON, or why it is unreachable."""
    for _line in sys.stdin:
        try:
            state = scheduler_state(address, timeout)
        except OSError as error:
            state = {"unreachable": str(error)}
        sys.stdout.write(json.dumps(state, default=str) + "\n")
        sys.stdout.flush()


def answer(address: str, timeout: float, question: str) -> None:
    """Writes a scheduler's answer to a question, both JSON, or why it is unreachable."""
    try:
        [said] = ask(address, timeout, json.loads(question))
    except OSError as error:
        said = {"unreachable": str(error)}
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "job":
        Runner(sys.argv[2]).run()
    elif sys.argv[1] == "script":
        run_script(sys.argv[2])
    elif sys.argv[1] == "ask":
        answer(sys.argv[2], float(sys.argv[3]), sys.argv[4])
    else:
        watch(sys.argv[2], float(sys.argv[3]))
