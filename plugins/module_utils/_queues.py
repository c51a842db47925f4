# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The queues of Slurm and PBS: submit a job, ask how it is, end it (private to this collection).

What their commands say is read by functions that run nothing. Formats: ``man scontrol``, ``man sacct`` and ``man
sbatch`` of Slurm 22.05; ``man qstat`` and ``man qsub`` of OpenPBS 23.
"""

from __future__ import annotations

import abc
import json
import os
import pwd
import re
import shutil
import subprocess
import typing as t
from dataclasses import dataclass

from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._wait import poll

COMMAND_SECONDS = 60.0
"""How long a busy queue may take to answer."""
ASK_AGAIN_SECONDS = 1.0
PBS_CONFIGURATION = "/etc/pbs.conf"
PENDING, RUNNING, ENDED, UNKNOWN = "pending", "running", "ended", "unknown"


@dataclass(frozen=True)
class JobState:
    """A job as its queue tells it.

    ``state``: ``pending``, ``running``, ``ended`` or ``unknown`` (to the queue, so it has ended too). ``reason``: the
    queue's own words. ``never``: whether it can never start. ``exit_code``: None where the queue doesn't say.
    """

    state: str
    reason: str = ""
    never: bool = False
    exit_code: int | None = None
    nodes: str = ""

    @property
    def lives(self) -> bool:
        return self.state in (PENDING, RUNNING)


class QueueError(DaskError):
    """The queue refused, or doesn't answer."""


class RefusedError(QueueError):
    """The queue refused a job, so that there is none."""


class Queue(abc.ABC):
    """One host's way to a queue."""

    name: t.ClassVar[str]
    command: t.ClassVar[str]
    """What submits a job."""

    @abc.abstractmethod
    def submit(self, script: str, directory: str) -> str:
        """Submits a script and returns the job's id.

        :raises RefusedError: there is no job. :raises QueueError: nobody knows whether there is one.
        """

    @abc.abstractmethod
    def state(self, job: str) -> JobState:
        """Returns how a job is. :raises QueueError: the queue doesn't answer."""

    @abc.abstractmethod
    def cancel(self, job: str) -> None:
        """Ends a job; one that has ended stays as it is. :raises QueueError: it may not be ended."""

    @abc.abstractmethod
    def find(self, name: str) -> list[str]:
        """Returns this user's jobs of a name that wait or run. :raises QueueError: the queue doesn't answer."""


class Slurm(Queue):
    """Slurm's commands."""

    name = "slurm"
    command = "sbatch"

    def submit(self, script: str, directory: str) -> str:
        status, said, complaint = run(["sbatch", "--parsable", script], directory)
        if status:
            raise refusal("sbatch", complaint or said, status)
        return parse_sbatch(said)

    def state(self, job: str) -> JobState:
        status, said, complaint = ask(["scontrol", "show", "job", "--oneliner", job])
        if status == 0:
            return parse_scontrol(said)
        if "invalid job id" not in (complaint + said).lower():
            raise QueueError("Slurm does not say how job {0} is: {1}".format(job, complaint or said))
        # It forgets a job some minutes after its end, if nobody accounts for it.
        status, said, _complaint = run(
            ["sacct", "--jobs", job, "--allocations", "--noheader", "--parsable2", "--format=State,ExitCode,NodeList"]
        )
        return parse_sacct(said) if status == 0 else JobState(UNKNOWN)

    def cancel(self, job: str) -> None:
        status, said, complaint = ask(["scancel", job])
        if status and "invalid job id" not in (complaint + said).lower():
            raise QueueError("Slurm does not end job {0}: {1}".format(job, complaint or said))

    def find(self, name: str) -> list[str]:
        status, said, complaint = ask(["squeue", "--noheader", "--format=%A", "--user=" + user(), "--name=" + name])
        if status:
            raise QueueError("Slurm does not say which jobs are called {0}: {1}".format(name, complaint or said))
        return said.split()


class Pbs(Queue):
    """The commands of PBS Pro and OpenPBS."""

    name = "pbs"
    command = "qsub"

    def submit(self, script: str, directory: str) -> str:
        status, said, complaint = run(["qsub", script], directory)
        if status:
            raise refusal("qsub", complaint or said, status)
        return parse_qsub(said)

    def state(self, job: str) -> JobState:
        words = ["qstat", "-f", "-F", "json", job]
        status, said, complaint = ask([*words[:1], "-x", *words[1:]])
        if status and "job history" in complaint:  # which the server need not keep
            status, said, complaint = ask(words)
        if status == 0:
            return parse_qstat(said, job)
        # Without a history it forgets a job at its end.
        if "unknown job" in complaint.lower() or "has finished" in complaint.lower():
            return JobState(UNKNOWN)
        raise QueueError("PBS does not say how job {0} is: {1}".format(job, complaint or said))

    def cancel(self, job: str) -> None:
        status, said, complaint = ask(["qdel", job])
        words = (complaint + said).lower()
        if status and "unknown job" not in words and "has finished" not in words and "invalid state" not in words:
            raise QueueError("PBS does not end job {0}: {1}".format(job, complaint or said))

    def find(self, name: str) -> list[str]:
        status, said, complaint = ask(["qselect", "-u", user(), "-N", name])
        if status:
            raise QueueError("PBS does not say which jobs are called {0}: {1}".format(name, complaint or said))
        return said.split()


QUEUES: tuple[type[Queue], ...] = (Slurm, Pbs)


def find_queue(wanted: str) -> Queue:
    """Returns the queue that this host submits to.

    :param wanted: Its name, or ``auto``. :raises DaskError: there is none, or there are two.
    """
    found = [each for each in QUEUES if shutil.which(each.command, path=search_path())]
    if wanted != "auto":
        found = [each for each in found if each.name == wanted]
    if len(found) == 1:
        return found[0]()
    if found:
        raise DaskError("This host has sbatch and qsub; say with the option 'system' which of slurm and pbs to use.")
    needed = " or ".join(each.command for each in QUEUES if wanted in ("auto", each.name))
    raise DaskError(
        "This host has no {0} on its path ({1}). Run the task on a login host of the batch system, and set PATH with "
        "the task's keyword 'environment' where its commands are elsewhere.".format(needed, search_path())
    )


def search_path() -> str:
    """Returns where commands of queues are: on the path, or where only login shells look for them."""
    places = ["/opt/pbs/bin", "/opt/slurm/bin"]
    try:
        with open(PBS_CONFIGURATION, encoding="utf-8") as file:
            places[:0] = [
                os.path.join(each, "bin") for each in re.findall(r"^PBS_EXEC=(\S+)", file.read(), re.MULTILINE)
            ]
    except OSError:
        pass
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *places])


def user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def ask(argv: t.Sequence[str]) -> tuple[int, str, str]:
    """Runs a command that may be run twice, again for as long as a busy queue doesn't answer it; see ``run``."""
    done: list[tuple[int, str, str]] = []

    def answered() -> bool:
        done[:] = [run(argv)]
        status, said, complaint = done[0]
        return not status or not is_silent(complaint or said)

    poll(answered, COMMAND_SECONDS, longest_pause=ASK_AGAIN_SECONDS)
    return done[0]


def is_silent(complaint: str) -> bool:
    """Whether a command of a queue complains that its server doesn't answer it."""
    return any(words in complaint.lower() for words in _SILENCE)


def run(argv: t.Sequence[str], directory: str | None = None) -> tuple[int, str, str]:
    """Runs a command of a queue and returns its status, its output and what it complained of.

    :raises QueueError: it isn't there, or hangs.
    """
    environment = {**os.environ, "PATH": search_path()}
    try:
        done = subprocess.run(
            argv,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise QueueError("'{0}' does not answer within {1:g} s.".format(argv[0], COMMAND_SECONDS)) from error
    except FileNotFoundError:
        return 127, "", "there is no command '{0}'".format(argv[0])
    except OSError as error:
        raise QueueError("'{0}' cannot be run: {1}".format(argv[0], error)) from error
    return done.returncode, done.stdout.strip(), done.stderr.strip()


_SILENCE = (
    "timed out",
    "unable to contact",
    "connect failure",
    "connection refused",
    "cannot connect",
    "no server",
    "try again",
)
_PENDING_IN_SLURM = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
_RUNNING_IN_SLURM = (
    "RUNNING",
    "CONFIGURING",
    "COMPLETING",
    "SUSPENDED",
    "STOPPED",
    "SIGNALING",
    "STAGE_OUT",
    "RESIZING",
)
_NEVER_IN_SLURM = {
    "AccountNotAllowed": "the account may not use the partition",
    "BadConstraints": "no node has what is asked for",
    "InvalidAccount": "there is no such account",
    "InvalidQOS": "there is no such quality of service",
    "PartitionNodeLimit": "the partition does not have so many nodes, or not for one job",
    "PartitionTimeLimit": "the walltime is longer than the partition allows",
    "QOSNotAllowed": "the account may not use the quality of service",
}


def parse_sbatch(said: str) -> str:
    """Returns the id of ``sbatch --parsable``: the last line, which may have the cluster's name behind it.

    :raises QueueError: there is no id.
    """
    last = (said.splitlines() or [""])[-1].partition(";")[0].strip()
    if not last.isdigit():
        raise QueueError("sbatch did not say which job it made: {0!r}".format(said))
    return last


def parse_scontrol(said: str) -> JobState:
    """Returns the state from ``scontrol show job --oneliner``. :raises QueueError: it isn't that."""
    # The first of each, as what a user named, in which anything may stand, comes behind them.
    found = dict(reversed(re.findall(r"(?:^|\s)(JobState|Reason|ExitCode|NodeList)=(\S*)", said)))
    if "JobState" not in found:
        raise QueueError("scontrol said something that is not a job: {0!r}".format(said[:200]))
    nodes = "" if found.get("NodeList") == "(null)" else found.get("NodeList", "")
    return _of_slurm(found["JobState"], found.get("Reason", ""), found.get("ExitCode", ""), nodes)


def parse_sacct(said: str) -> JobState:
    """Returns the state from ``sacct --parsable2 --format=State,ExitCode,NodeList``."""
    fields = (said.splitlines() or [""])[0].split("|")
    if not fields[0]:
        return JobState(UNKNOWN)
    state, code, nodes = [*fields, "", ""][:3]
    return _of_slurm(state.split()[0], "", code, nodes)


def _of_slurm(state: str, reason: str, code: str, nodes: str) -> JobState:
    reason = "" if reason in ("None", "(null)") else reason
    if state in _PENDING_IN_SLURM:
        words = _NEVER_IN_SLURM.get(reason, "")
        told = "{0}: {1}".format(reason, words) if words else reason.replace("_", " ")
        return JobState(PENDING, told, never=bool(words))
    if state in _RUNNING_IN_SLURM:
        return JobState(RUNNING, "" if state == "RUNNING" else state, nodes=nodes)
    status, _colon, killed = code.partition(":")
    exit_code = int(status) if status.isdigit() else None
    if exit_code == 0 and killed.isdigit() and int(killed):
        exit_code = 128 + int(killed)
    told = state if reason in ("", state) else "{0}, {1}".format(state, reason)
    return JobState(ENDED, told, exit_code=exit_code, nodes=nodes)


_ADVICE = {
    "queue": "Correct 'queue'; {0} lists those that there are.",
    "account": "Correct 'account'.",
    "resources": "Ask for less with 'chunks', 'cpus', 'memory' and 'place', or for another 'queue'.",
    "memory": "Correct 'memory': no node has so much for a chunk.",
    "walltime": "Correct 'walltime': the queue allows less.",
    "limit": "Wait for other jobs to end, or ask for less.",
    "permission": "Ask those who run the batch system to let this account in, or name another 'queue' or 'account'.",
    "option": "Correct 'directives' or 'constraint'.",
    "server": "Run the task again when the batch system answers.",
}
_LISTS = {"sbatch": "'sinfo -s'", "qsub": "'qstat -Q'"}
_SBATCH = (
    ("invalid partition", "queue"),
    ("invalid account", "account"),
    ("memory specification", "memory"),
    ("time limit", "walltime"),
    ("node configuration is not available", "resources"),
    ("node count specification", "resources"),
    ("cpu count", "resources"),
    ("more processors requested", "resources"),
    ("not permitted", "permission"),
    ("permission denied", "permission"),
    ("violates accounting", "limit"),
    ("unrecognized option", "option"),
    ("invalid option", "option"),
    ("invalid feature", "option"),
    ("invalid constraint", "option"),
)
# qsub's exit status is what is left of PBS's error number in one byte: 15018 (unknown queue) is 170.
_QSUB_STATUS = {
    170: "queue",
    159: "permission",
    179: "account",
    188: "limit",
    166: "resources",
    156: "resources",
    187: "server",
}
_QSUB = (
    ("unknown queue", "queue"),
    ("unauthorized", "permission"),
    ("access from host not allowed", "permission"),
    ("not permitted", "permission"),
    ("bad uid", "permission"),
    ("account", "account"),
    ("would exceed", "limit"),
    ("queue is not enabled", "queue"),
    ("walltime", "walltime"),
    (".mem", "memory"),
    ("violates queue", "resources"),
    ("illegal attribute or resource", "resources"),
    ("unknown resource", "option"),
    ("usage:", "option"),
)


def refusal(command: str, complaint: str, status: int) -> QueueError:
    """Returns in words why a job was refused, by what a command said or else by its status, and what that is about."""
    patterns = _SBATCH if command == "sbatch" else _QSUB
    lower = complaint.lower()
    about = next((about for words, about in patterns if words in lower), "")
    if command == "qsub":
        about = about or _QSUB_STATUS.get(status, "")
    lines = [re.sub(r"^{0}: (error: )?".format(command), "", line) for line in complaint.splitlines() if line.strip()]
    said = " / ".join(lines[:5]).rstrip(".") or "exit status {0}".format(status)
    if is_silent(complaint):
        return QueueError("The queue did not say whether it took the job: {0}. {1}".format(said, _ADVICE["server"]))
    advice = " " + _ADVICE[about].format(_LISTS[command]) if about else ""
    return RefusedError("The queue refused the job, there is none: {0}.{1}".format(said, advice))


_PENDING_IN_PBS = "QHWT"
_RUNNING_IN_PBS = "REBSU"


def parse_qsub(said: str) -> str:
    """Returns the id that qsub printed. :raises QueueError: there is none."""
    last = (said.splitlines() or [""])[-1].strip()
    if not re.fullmatch(r"\d+[\w.-]*", last):
        raise QueueError("qsub did not say which job it made: {0!r}".format(said))
    return last


def parse_qstat(said: str, job: str) -> JobState:
    """Returns the state from ``qstat -x -f -F json``.

    PBS writes variables of a job as they are, so that what it calls JSON need not be; then the attributes are looked
    for in the text.

    :raises QueueError: there is no such job in it.
    """
    try:
        jobs = json.loads(said).get("Jobs", {})
        found = next((each for name, each in jobs.items() if _same_job(name, job)), None)
    except (ValueError, AttributeError):
        found = _search_qstat(said)
    if not found or "job_state" not in found:
        raise QueueError("qstat said something that is not job {0}: {1!r}".format(job, said[:200]))
    letter, comment = str(found["job_state"]), str(found.get("comment", ""))
    if letter in _PENDING_IN_PBS:
        never = "can never run" in comment.lower()
        held = "it is held" if letter == "H" else ""
        return JobState(PENDING, re.sub(r"^(Not Running|Can Never Run): ", "", comment) or held, never=never)
    if letter in _RUNNING_IN_PBS:
        return JobState(RUNNING, "", nodes=str(found.get("exec_host", "")))
    code = found.get("Exit_status")
    return JobState(
        ENDED, comment, exit_code=int(code) if code is not None else None, nodes=str(found.get("exec_host", ""))
    )


def _same_job(one: str, other: str) -> bool:
    return one == other or one.partition(".")[0] == other.partition(".")[0]


def _search_qstat(said: str) -> dict[str, t.Any]:
    found: dict[str, t.Any] = dict(re.findall(r'"(job_state|comment|exec_host)":\s*"((?:[^"\\]|\\.)*)"', said))
    code = re.search(r'"Exit_status":\s*(-?\d+)', said)
    if code:
        found["Exit_status"] = int(code[1])
    return found
