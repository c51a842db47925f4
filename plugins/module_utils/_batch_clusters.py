# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Clusters inside batch jobs: submitted, waited for and ended from the login host (private to this collection).

What was submitted is written down in a directory of the cluster's own, a job's name before it is submitted and its id
after: so a module that is killed in between loses no job. ``_batch_side`` says what the job itself writes.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import shutil
import time
import typing as t

from ansible_collections.flotilla.dask.plugins.module_utils import _batch_side, _jobs
from ansible_collections.flotilla.dask.plugins.module_utils._clusters import Description, read_endpoint
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._files import read_text, remove_tree, write_text
from ansible_collections.flotilla.dask.plugins.module_utils._queues import (
    ENDED,
    PENDING,
    JobState,
    Queue,
    RefusedError,
)
from ansible_collections.flotilla.dask.plugins.module_utils._secrets import write_secrets
from ansible_collections.flotilla.dask.plugins.module_utils._service import module_text
from ansible_collections.flotilla.dask.plugins.module_utils._wait import poll
from ansible_collections.flotilla.dask.plugins.module_utils.launch.layout import DESCRIPTION

LOOK_SECONDS = 0.2
"""Between two looks at a job's own files."""
ASK_SECONDS = {"pending": 2.0, "starting": 1.0, "running": 1.0}
"""Between two questions to the queue, which others ask too."""
CANCEL_SECONDS = 60.0
LEAVE_SECONDS = 30.0
"""For a job to end that was asked to, beyond the drain of its workers."""
LAST_LINES = 20
STATE = "state.json"

Record = t.Dict[str, t.Any]


class BatchCluster:
    """One named cluster of a login host.

    :param site: What ``_clusters.find_site`` returns.
    """

    def __init__(self, site: Description, queue: Queue, name: str) -> None:
        self.site = site
        self.queue = queue
        self.name = name
        self.own = os.path.join(site["batch"]["directory"], name)

    def record(self) -> Record | None:
        """Returns what was submitted last, or None; its ``job`` is empty where it never came to be.

        :raises DaskError: the queue doesn't say.
        """
        text = read_text(self._path(STATE))
        if not text:
            return None
        record: Record = json.loads(text)
        known = {each["job"] for each in (record, *record["more"])}
        for each in (record, *record["more"]):
            if not each["job"]:  # whoever submitted it was killed before it could write down which it is
                each["job"] = next((job for job in self.queue.find(each["job_name"]) if job not in known), "")
                known.add(each["job"])
        record["more"] = [each for each in record["more"] if each["job"]]
        return record

    def job(self, record: Record | None) -> JobState | None:
        """Returns how the job is that was submitted last. :raises DaskError: the queue doesn't say."""
        return self.queue.state(record["job"]) if record and record["job"] else None

    def has_begun(self, record: Record) -> bool:
        """Whether the job began to run."""
        return bool(record["job"]) and os.path.isdir(self._files(record, record["job"]))

    def refuse_another(self, record: Record, plan: t.Mapping[str, t.Any]) -> None:
        """Refuses to take what lives for what was asked for. :raises DaskError: it is another."""
        if record["digest"] != plan["digest"]:
            raise DaskError(
                "name: {0!r} is refused: job {1} of that name has another specification. Allowed: another name, or end "
                "that one first with 'state: absent'.".format(self.name, record["job"])
            )

    def last_script(self) -> str:
        """Returns the script of the job that was submitted last, or nothing."""
        record = self.record()
        return (read_text(record["stem"] + ".sh") or "") if record else ""

    @contextlib.contextmanager
    def locked(self) -> t.Iterator[None]:
        """Inside, nobody else submits or ends the cluster. :raises DaskError: somebody does."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._leave_no_empty_directory)
            try:
                os.makedirs(self.own, mode=0o700, exist_ok=True)
                lock = os.open(self._path("lock"), os.O_RDWR | os.O_CREAT, 0o600)
                stack.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DaskError(
                    "Batch cluster '{0}' is being changed by somebody else at this moment. Ask again.".format(self.name)
                ) from error
            except OSError as error:
                raise DaskError(
                    "{0} cannot be written to, or locked ({1}).".format(self.own, error.strerror)
                ) from error
            yield

    def submit(
        self,
        plan: t.Mapping[str, t.Any],
        script: str,
        content: str | None,
        before: Record | None,
        secrets: t.Mapping[str, str] | None = None,
    ) -> Record:
        """Submits the cluster's job and writes that down.

        :param secrets: Names and values. The files with them are there until the job has ended.
        :param before: What was submitted last when it was decided to do so.
        :raises DaskError: it is refused, and nothing is left.
        """
        with self.locked():
            if self.record() != before:
                raise DaskError("Batch cluster '{0}' was submitted by somebody else just now.".format(self.name))
            self._withdraw(plan["directory"])
            record = {
                "application": plan["application"],
                "digest": plan["digest"],
                "directory": plan["directory"],
                "drain_seconds": plan["job"]["drain_seconds"],
                "job": "",
                "job_name": plan["job_name"],
                "more": [],
                "stem": plan["stem"],
                "submitted": time.time(),
                "system": self.queue.name,
            }
            write_text(self._path(DESCRIPTION), json.dumps(self._description(plan), indent=2, sort_keys=True) + "\n")
            self._write(record)
            self.forget_secrets(record)
            try:
                record["job"] = self._submit(plan, script, content, secrets)
            except RefusedError:
                self.forget_secrets(record)
                if before:
                    self._write(before)
                else:
                    self._remove(plan["directory"])
                raise
            self._write(record)
        return record

    @staticmethod
    def forget_secrets(record: Record) -> None:
        """Removes the secrets of a job that has ended, which does so itself unless it is killed."""
        remove_tree(os.path.join(record["directory"], "secrets"))

    def submit_more(self, plan: t.Mapping[str, t.Any], script: str, wanted: int) -> Record:
        """Submits a job whose workers join the cluster, unless somebody else did so just now.

        :param wanted: How many chunks there are to be in such jobs. :raises DaskError: it is refused.
        """
        with self.locked():
            record = self.record()
            if record is None:
                raise DaskError("Batch cluster '{0}' was ended by somebody else just now.".format(self.name))
            record["more"] = self.living_more(record)
            chunks = plan["job"]["chunks"]
            if sum(each["chunks"] for each in record["more"]) + chunks <= wanted:
                joining = {"job": "", "job_name": plan["job_name"], "chunks": chunks}
                self._write({**record, "more": [*record["more"], joining]})
                try:
                    joining["job"] = self._submit(plan, script, None, None)
                    record["more"].append(joining)
                except RefusedError:
                    self._write(record)
                    raise
            self._write(record)
        return record

    def living_more(self, record: Record) -> list[dict[str, t.Any]]:
        """Returns the jobs with more workers that wait or run, each with its ``job`` and ``chunks``."""
        return [each for each in record["more"] if self.queue.state(each["job"]).lives]

    def surplus(self, record: Record, chunks: int) -> list[str]:
        """Returns which whole jobs with more workers, the newest first, are not needed for so many chunks."""
        left = []
        living = self.living_more(record)
        total = sum(each["chunks"] for each in living)
        for each in reversed(living):
            if total - each["chunks"] >= chunks:
                total -= each["chunks"]
                left.append(each["job"])
        return left

    def shrink(self, record: Record, jobs: t.Sequence[str]) -> None:
        """Has jobs with more workers leave, which hand over what they have. :raises DaskError: one stays."""
        with self.locked():
            for job in jobs:
                self._ask_to_leave(record, job)
            record["more"] = [each for each in record["more"] if each["job"] not in jobs]
            self._write(record)

    def wait(self, record: Record, seconds: float, timeout: float) -> dict[str, t.Any]:
        """Returns the cluster as it is once it is up or its application has ended, or after so many seconds.

        :param timeout: Seconds since the submission after which to give up; 0 for never.
        :raises DaskError: the job ended, can never start, or the time is over.
        """
        latest: dict[str, t.Any] = {}
        asked: dict[str, float] = {}

        def done() -> bool:
            state = latest.get("state", "pending")
            if not latest or time.monotonic() - asked["at"] >= ASK_SECONDS[state] or self._is_further(record, state):
                asked["at"] = time.monotonic()
                latest.clear()
                latest.update(self.state(record))
            if latest["state"] == "running":
                return not record["application"]
            return latest["state"] not in ("pending", "starting")

        left = record["submitted"] + timeout - time.time() if timeout else seconds
        poll(done, max(0.0, min(seconds, left)), longest_pause=LOOK_SECONDS)
        if latest["never"]:
            self.queue.cancel(record["job"])
            self.forget_secrets(record)
            raise DaskError(
                "Job {0} of batch cluster '{1}' can never start, and was cancelled: {2}. Ask for something "
                "else.".format(record["job"], self.name, latest["reason"])
            )
        waited = time.time() - record["submitted"]
        if timeout and waited >= timeout and latest["state"] in ("pending", "starting"):
            raise DaskError(
                "Batch cluster '{0}' is not up after {1:.0f} s: job {2} is {3}{4}. It stays in the queue; wait longer "
                "by running the task again, or end it with 'state: absent'.".format(
                    self.name,
                    waited,
                    record["job"],
                    latest["state"],
                    " ({0})".format(latest["reason"]) if latest["reason"] else "",
                )
            )
        return latest

    def state(self, record: Record) -> dict[str, t.Any]:
        """Returns the cluster as it stands, as the module returns it."""
        job = self.queue.state(record["job"])
        files = self._files(record, record["job"])
        endpoint = self._endpoint(record) if job.lives else None
        state = "pending" if job.state == PENDING else "starting"
        exit_code = None
        if endpoint and endpoint["ready"]:
            state = "running"
        if not job.lives:
            exit_code = _number(read_text(os.path.join(files, "exit")))
            exit_code = job.exit_code if exit_code is None else exit_code
            state = "failed" if exit_code or (job.state == ENDED and job.exit_code) else "finished"
            if exit_code is None:
                state = "lost"
        told = endpoint or {}
        result = _result(files)
        return {
            "name": self.name,
            "state": state,
            "never": job.never,
            "reason": job.reason,
            "job": record["job"],
            "system": record["system"],
            "nodes": job.nodes,
            "submitted": record["submitted"],
            "seconds": round(time.time() - record["submitted"], 1),
            "address": told.get("address", ""),
            "dashboard": told.get("dashboard", ""),
            "node": told.get("node", ""),
            "started": told.get("started"),
            "ends": told.get("ends"),
            "leaves": told.get("leaves"),
            "workers": told.get("workers", 0),
            "endpoint": os.path.join(record["directory"], "endpoint.json"),
            "environment": {
                **{key: value for key, value in self.site["environment"].items() if not key.startswith("FLOTILLA_")},
                "DASK_SCHEDULER_ADDRESS": told.get("address", ""),
            }
            if told
            else {},
            "files": files,
            "output": os.path.join(files, "output-{0}.log".format(record["job"])) if record["application"] else "",
            "result": result,
            "exit_code": exit_code,
            "more": record["more"],
        }

    def describe_end(self, record: Record, state: t.Mapping[str, t.Any]) -> str:
        """Returns in words how a job ended that should not have, with the last lines of its logs."""
        code = state["exit_code"]
        text = "Job {0} of batch cluster '{1}' ended{2}{3}".format(
            record["job"],
            self.name,
            " with exit status {0}".format(code) if code is not None else "",
            " ({0})".format(state["reason"]) if state["reason"] else "",
        )
        for heading, path in self._logs(record):
            lines = _batch_side.last_lines(path, LAST_LINES).strip()
            if lines:
                return "{0}. {1}:\n{2}\nIts files are in {3}.".format(text, heading.format(path), lines, state["files"])
        return "{0}, and left no word in {1}: do its nodes share that directory with this host?".format(
            text, record["directory"]
        )

    def end(self, record: Record) -> None:
        """Cancels what runs on the cluster, has the workers of all jobs leave, ends these, and removes all files.

        :raises DaskError: a job stays.
        """
        with self.locked():
            who = _jobs.owner(self._description(record))
            who.account.run(lambda: _jobs.cancel_all(who))
            jobs = [each["job"] for each in (*record["more"], record) if each["job"]]
            for job in jobs:
                self._ask_to_leave(record, job)
            patience = record["drain_seconds"] + LEAVE_SECONDS
            if not self._wait_for_end(jobs, patience):
                for job in jobs:
                    self.queue.cancel(job)
                if not self._wait_for_end(jobs, CANCEL_SECONDS):
                    raise DaskError(
                        "Jobs {0} of batch cluster '{1}' do not end within {2:g} s.".format(
                            ", ".join(jobs), self.name, CANCEL_SECONDS
                        )
                    )
            self._remove(record["directory"])

    def _ask_to_leave(self, record: Record, job: str) -> None:
        """Ends a job that waits at once, and one that runs by asking its chunks."""
        files = self._files(record, job)
        state = self.queue.state(job)
        if state.state == PENDING or (state.lives and not os.path.isdir(files)):
            self.queue.cancel(job)
        elif state.lives:
            write_text(os.path.join(files, "leave"), "")

    def _wait_for_end(self, jobs: t.Sequence[str], seconds: float) -> bool:
        return poll(lambda: not any(self.queue.state(job).lives for job in jobs), seconds, longest_pause=1.0)

    def _submit(
        self, plan: t.Mapping[str, t.Any], script: str, content: str | None, secrets: t.Mapping[str, str] | None
    ) -> str:
        stem, made = plan["stem"], not os.path.exists(plan["stem"] + ".sh")
        try:
            for directory in (plan["directory"], os.path.dirname(stem)):
                os.makedirs(directory, mode=0o700, exist_ok=True)
            write_text(stem + ".json", json.dumps(plan["job"], indent=2, sort_keys=True) + "\n", 0o600)
            write_text(stem + ".py", module_text(_batch_side), 0o600)
            write_text(stem + ".sh", script, 0o700)
            if content is not None:
                write_text(plan["job"]["application"]["script"], content, 0o600)
            if secrets:
                write_secrets(plan["secrets"]["directory"], secrets, 0o700)
        except OSError as error:
            raise DaskError("{0} cannot be written to ({1}).".format(plan["directory"], error.strerror)) from error
        try:
            return self.queue.submit(stem + ".sh", plan["directory"])
        except RefusedError:
            for path in glob.glob(glob.escape(stem) + "*") if made else ():
                os.unlink(path)
            raise

    def _is_further(self, record: Record, state: str) -> bool:
        """Whether the job's own files tell more than the queue did, which isn't asked all the time."""
        endpoint = self._endpoint(record) if state != "running" else None
        return endpoint is not None and (state == "pending" or bool(endpoint["ready"]))

    def _endpoint(self, record: Record) -> dict[str, t.Any] | None:
        return read_endpoint(os.path.join(record["directory"], "endpoint-{0}.json".format(record["job"])))

    @staticmethod
    def _withdraw(directory: str) -> None:
        """Removes what jobs left behind that were killed."""
        for path in glob.glob(os.path.join(glob.escape(directory), "endpoint*.json")):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _description(self, made: t.Mapping[str, t.Any]) -> Description:
        """What other modules find the cluster by. :param made: Its plan or its record."""
        description = {key: value for key, value in self.site.items() if key != "batch"}
        return {
            **description,
            "cluster": self.name,
            "endpoint": os.path.join(made["directory"], "endpoint.json"),
            "jobs": self._path("runs"),
            "logs": "ls {0}/jobs/*/".format(made["directory"]),
            "workers": made.get("workers", []),
        }

    def _leave_no_empty_directory(self) -> None:
        """NFS keeps what is removed while it is open, as the lock is."""
        with contextlib.suppress(OSError):
            os.rmdir(self.own)

    def _remove(self, directory: str) -> None:
        for path in (directory, self.own):
            shutil.rmtree(path, ignore_errors=True)

    def _path(self, name: str) -> str:
        return os.path.join(self.own, name)

    @staticmethod
    def _files(record: Record, job: str) -> str:
        """The directory that a job makes when it begins."""
        return os.path.join(record["directory"], "jobs", job)

    def _write(self, record: Record) -> None:
        write_text(self._path(STATE), json.dumps(record, indent=2, sort_keys=True) + "\n", 0o600)

    @classmethod
    def _logs(cls, record: Record) -> list[tuple[str, str]]:
        """What may say why a job ended, the best first, each with what introduces it."""
        job = record["job"]
        files = cls._files(record, job)
        escaped, number = glob.escape(record["directory"]), job.split(".")[0]
        logs = [("It said", path) for path in sorted(glob.glob(os.path.join(glob.escape(files), "problem-*")))]
        logs += [("The last lines of {0}", os.path.join(files, "output-{0}.log".format(job)))]
        logs += [("The last lines of {0}", os.path.join(files, name)) for name in ("chunk-0.log", "job.log")]
        # What the queue itself has to say, by the names that it gives.
        for pattern in ("queue-{0}.log".format(number), "*.o{0}".format(number)):
            logs += [("The last lines of {0}", path) for path in glob.glob(os.path.join(escaped, pattern))]
        return logs


def _number(text: str | None) -> int | None:
    try:
        return int(text or "")
    except ValueError:
        return None


def _result(files: str) -> t.Any:
    """What the function returned that the job was for."""
    text = read_text(os.path.join(files, "result.json"))
    return json.loads(text) if text else None
