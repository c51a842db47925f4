# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs the stages of a pipeline as services of the cluster's stack (private to this collection).

A stage is a service of one task that isn't started again. It outlives who started it; whoever comes next finds it,
running or ended. What came of it is written down beside its output, and then the service goes.
"""

from __future__ import annotations

import datetime
import glob
import json
import os
import subprocess
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.flotilla.dask.plugins.module_utils._clusters import Description
from ansible_collections.flotilla.dask.plugins.module_utils._errors import DaskError
from ansible_collections.flotilla.dask.plugins.module_utils._files import (
    last_lines,
    make_directory,
    read_text,
    remove_tree,
    write_text,
)
from ansible_collections.flotilla.dask.plugins.module_utils._service import run
from ansible_collections.flotilla.dask.plugins.module_utils._wait import poll
from ansible_collections.flotilla.dask.plugins.module_utils.launch.pipeline import Pipeline, Stage, service_name
from ansible_collections.flotilla.dask.plugins.module_utils.launchers.docker import CLUSTER, DEFINITION, KIND
from ansible_collections.flotilla.dask.plugins.module_utils.launchers.swarm import START_SECONDS, Stack, is_alive

KIND_OF_STAGE = "stage"
SECRET = "secret_"
"""How the keys of the scheduler's secrets begin that are the user's, and not those of every client."""
LAST_LINES = 20
OUTPUT_SECONDS = 120
REMOVAL_SECONDS = 60
OF_CLIENTS = ("DASK_CONFIG", "FLOTILLA_CONFIGURATION", "FLOTILLA_ENVIRONMENT", "PYTHONPATH")
"""What a stage has of the scheduler's environment: with it Dask's clients are the cluster's."""


@dataclass(frozen=True)
class Ended:
    """How a stage ended. ``reason``: empty where it succeeded, else ``exit``, ``start``, ``timeout`` or ``lost``."""

    exit_code: int | None
    reason: str = ""
    message: str = ""


class Runs:
    """The stages of one pipeline on the cluster that this host manages.

    :raises DaskError: the cluster isn't in a swarm, or isn't deployed.
    """

    def __init__(self, cluster: Description, name: str) -> None:
        if "swarm" not in cluster:
            raise DaskError(
                "Cluster '{0}' has no pipelines, which run where dask_launcher is swarm.".format(cluster["cluster"])
            )
        self.cluster = cluster
        self.swarm = cluster["swarm"]
        self.name = name
        self.stack = Stack(self.swarm["stack"], self.swarm["definitions"])
        # Beside the definitions, where root alone writes: below the directory of the jobs, tasks could put links.
        self.directory = os.path.join(os.path.dirname(self.swarm["definitions"]), "pipelines", name)
        text = self.stack.read("scheduler")
        if not text:
            raise DaskError(
                "Cluster '{0}' has no scheduler in its swarm. Run the task on the scheduler's host, after "
                "flotilla.dask.site.".format(cluster["cluster"])
            )
        self.base = json.loads(text)
        self.image = str(self.base["services"]["scheduler"]["image"])

    def hosts(self) -> list[str]:
        """Returns the inventory names of the nodes."""
        nodes = run(["docker", "node", "ls", "--quiet"]).split()
        found = json.loads(run(["docker", "node", "inspect", *nodes]))
        label = self.swarm["host_label"]
        return sorted(each["Spec"]["Labels"][label] for each in found if label in each["Spec"]["Labels"])

    def record(self, stage: Stage) -> dict[str, t.Any] | None:
        """Returns what came of a stage when it last ran, or None."""
        text = read_text(self._path(stage, "json"))
        try:
            record: dict[str, t.Any] | None = json.loads(text) if text else None
        except ValueError:  # cut short: the stage runs again
            return None
        return record

    def is_done(self, stage: Stage, digest: str) -> bool:
        record = self.record(stage)
        return record is not None and record["state"] == "finished" and record["digest"] == digest

    def forget(self, stage: Stage) -> None:
        """Has a stage run again."""
        if os.path.exists(self._path(stage, "json")):
            os.unlink(self._path(stage, "json"))

    def service(self, stage: Stage) -> dict[str, t.Any] | None:
        """Returns the service of a stage that runs, or of which nobody has written down how it ended."""
        return self._services().get(self._service_name(stage.name))

    @staticmethod
    def is_of(service: t.Mapping[str, t.Any], digest: str) -> bool:
        """Whether a stage's service is of this specification."""
        return bool(service["Spec"]["Labels"].get(DEFINITION) == digest)

    def start(self, stage: Stage, digest: str) -> None:
        """Starts a stage. :raises DaskError: Docker refused."""
        for path in (os.path.dirname(self.directory), self.directory):
            make_directory(path, 0o700)
        name = self._service_name(stage.name)
        self.stack.write(name, json.dumps(self._definition(stage, digest), indent=2))
        self.stack.deploy([name])

    def wait(self, stage: Stage, seconds: float) -> Ended | None:
        """Returns how a stage ended, or None if it still runs after so many seconds."""
        ended: list[Ended] = []

        def has_ended() -> bool:
            found = self._look(stage)
            ended[:] = [found] if found else []
            return bool(ended)

        poll(has_ended, seconds)
        return ended[0] if ended else None

    def finish(self, stage: Stage, digest: str, ended: Ended) -> dict[str, t.Any]:
        """Writes down how a stage ended, with its output, and removes its service."""
        task = self._task(stage)
        began = _seconds(task["CreatedAt"]) if task else time.time()
        self._keep_output(stage)
        record = {
            "digest": digest,
            "state": "failed" if ended.reason else "finished",
            "exit_code": ended.exit_code,
            "reason": ended.reason,
            "message": ended.message,
            "host": stage.host,
            "seconds": round(max(0.0, time.time() - began), 3),
            "ended": time.time(),
        }
        # Before the service goes: whoever is interrupted in between finds both.
        write_text(self._path(stage, "json"), json.dumps(record, indent=2))
        self._remove([self._service_name(stage.name)])
        return record

    def report(self, stage: Stage, digest: str) -> dict[str, t.Any]:
        """Returns a stage as it stands, as the module returns it."""
        record = self.record(stage) or {}
        here = record.get("digest") == digest
        service = self.service(stage)
        running = service is not None and self.is_of(service, digest)
        task = self._task(stage) if running else None
        log = self._path(stage, "log")
        return {
            "name": stage.name,
            "state": "running" if running else record["state"] if here else "waiting",
            "exit_code": record.get("exit_code") if here and not running else None,
            "reason": record.get("reason", "") if here else "",
            "message": record.get("message", "") if here else "",
            "seconds": (time.time() - _seconds(task["CreatedAt"]) if task else 0.0)
            if running
            else record.get("seconds", 0.0),
            "host": stage.host,
            "log": log if here else "",
            "output": last_lines(log, LAST_LINES) if here else "",
            "results": stage.results_on_host,
        }

    def last_line(self, stage: Stage) -> str:
        """Returns what a stage that runs printed last."""
        words = ["docker", "service", "logs", "--raw", "--tail", "1", self.stack.full(self._service_name(stage.name))]
        try:
            said = subprocess.run(words, capture_output=True, text=True, timeout=5, check=False)
        except subprocess.TimeoutExpired:
            return ""
        return (said.stdout.strip() or said.stderr.strip()).splitlines()[-1] if said.stdout or said.stderr else ""

    def exists(self) -> bool:
        return bool(self._all()) or os.path.isdir(self.directory)

    def remove(self) -> None:
        """Ends what runs of the pipeline, and forgets it."""
        self._remove(self._all())
        remove_tree(self.directory)

    def _all(self) -> list[str]:
        prefix = self._service_name("")
        paths = glob.glob(os.path.join(glob.escape(self.stack.directory), glob.escape(prefix) + "*.json"))
        written = {os.path.basename(path)[: -len(".json")] for path in paths}
        return sorted(written | {name for name in self._services() if name.startswith(prefix)})

    def _remove(self, names: t.Sequence[str]) -> None:
        if names:
            self.stack.remove(names, REMOVAL_SECONDS)
        for name in names:
            if os.path.exists(self.stack.path(name)):
                os.unlink(self.stack.path(name))

    def _services(self) -> dict[str, dict[str, t.Any]]:
        return self.stack.services((CLUSTER, self.cluster["cluster"]), (KIND, KIND_OF_STAGE))

    def _service_name(self, stage: str) -> str:
        return service_name(self.cluster["cluster"], self.name, stage)[len(self.stack.name) + 1 :]

    def _path(self, stage: Stage, kind: str) -> str:
        return os.path.join(self.directory, "{0}.{1}".format(stage.name, kind))

    def _task(self, stage: Stage) -> dict[str, t.Any] | None:
        name = self._service_name(stage.name)
        tasks = self.stack.tasks(name) if name in self._services() else []
        return tasks[0] if tasks else None

    def _look(self, stage: Stage) -> Ended | None:
        """How the stage ended, if it has."""
        task = self._task(stage)
        if task is None:
            return None
        status = task["Status"]
        age = time.time() - _seconds(task["CreatedAt"])
        message = status.get("Err") or status.get("Message", "")
        code = status.get("ContainerStatus", {}).get("ExitCode")
        if status["State"] == "complete":
            return Ended(exit_code=0)
        if status["State"] == "failed":
            return Ended(code, "exit", "it ended with exit status {0}".format(code))
        if not is_alive(status["State"]):
            return Ended(None, "start", "it could not be run: " + message)
        if task.get("NodeID") in self.stack.lost_nodes():
            return Ended(None, "lost", "the swarm lost its host {0}".format(stage.host))
        if status["State"] == "pending" and age > START_SECONDS:
            return Ended(None, "start", "no node takes it: " + message)
        if stage.timeout and age > stage.timeout:
            return Ended(None, "timeout", "it took longer than {0} s".format(stage.timeout))
        return None

    def _keep_output(self, stage: Stage) -> None:
        name = self.stack.full(self._service_name(stage.name))
        with open(self._path(stage, "log"), "wb") as file:
            try:
                subprocess.run(
                    ["docker", "service", "logs", "--raw", name],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    timeout=OUTPUT_SECONDS,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                file.write(b"\n(the rest of the output is on a node that does not answer)\n")

    def _definition(self, stage: Stage, digest: str) -> dict[str, t.Any]:
        """A stack file like the scheduler's, whose network, files and keys the stage has too."""
        scheduler = self.base["services"]["scheduler"]
        user = stage.user or self.swarm["user"]
        uid, gid = user.split(":")
        service = {
            "cap_drop": ["ALL"],
            "command": list(stage.command),
            "configs": scheduler["configs"],
            "deploy": {
                "endpoint_mode": scheduler["deploy"]["endpoint_mode"],
                "labels": {CLUSTER: self.cluster["cluster"], KIND: KIND_OF_STAGE, DEFINITION: digest},
                "placement": {"constraints": ["node.labels.{0}=={1}".format(self.swarm["host_label"], stage.host)]},
                "replicas": 1,
                "restart_policy": {"condition": "none"},
            },
            "environment": stage_environment(stage, scheduler["environment"], self.swarm["scheduler"]),
            "healthcheck": {"disable": True},
            "image": stage.image or self.image,
            "init": True,
            "logging": scheduler["logging"],
            "networks": scheduler["networks"],
            "secrets": [
                {**each, "uid": uid, "gid": gid} if "uid" in each else each
                for each in scheduler["secrets"]
                if not each["source"].startswith(SECRET)
            ],
            "user": user,
            "volumes": [
                "{0}:{1}{2}".format(mount.source, mount.path, ":ro" if mount.read_only else "")
                for mount in stage.mounts
            ],
        }
        shared = {key: each for key, each in self.base["secrets"].items() if not key.startswith(SECRET)}
        return {**self.base, "services": {self._service_name(stage.name): service}, "secrets": shared}


def stage_environment(stage: Stage, scheduler: t.Mapping[str, str], address: str) -> dict[str, str]:
    """Returns the variables of a stage: those with which Dask's clients find the cluster, then the user's."""
    result = {name: scheduler[name] for name in OF_CLIENTS if name in scheduler}
    result["DASK_SCHEDULER_ADDRESS"] = address
    result["HOME"] = "/tmp"
    result.update(dict.fromkeys(stage.scheduler_variables, address))
    result.update(stage.environment)
    if "PYTHONPATH" in stage.environment and "PYTHONPATH" in scheduler:
        result["PYTHONPATH"] = scheduler["PYTHONPATH"] + ":" + stage.environment["PYTHONPATH"]
    return result


def missing_stages(pipeline: Pipeline, runs: Runs) -> list[str]:
    """Returns the names of stages that have to be done before those that are to run, and are not."""
    needed: set[str] = set()
    for stage in reversed(pipeline.stages):
        if stage.name in pipeline.to_run or stage.name in needed:
            needed.update(stage.after)
    return [
        stage.name
        for stage in pipeline.stages
        if stage.name in needed - set(pipeline.to_run) and not runs.is_done(stage, pipeline.digests[stage.name])
    ]


def describe_failure(pipeline: str, stage: t.Mapping[str, t.Any]) -> str:
    """Returns in words how a stage failed, and where the rest is."""
    text = "Stage '{0}' of pipeline '{1}' failed: {2}.".format(stage["name"], pipeline, stage["message"])
    if stage["output"]:
        text += "\nIts last lines:\n" + stage["output"]
    return text + "\nAll of its output is in {0}. The stages after it did not run.".format(stage["log"])


def _seconds(text: str) -> float:
    """Since the epoch, from a time as Docker writes it, with nanoseconds that Python doesn't read."""
    moment = datetime.datetime.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")
    return moment.replace(tzinfo=datetime.timezone.utc).timestamp()
