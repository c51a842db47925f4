# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real cluster on this machine, from a real launch plan, and the modules as Ansible runs them."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

import certificates
import dask
import pytest
from ansible_server import AnsibleServer

from ansible_collections.flotilla.dask.plugins.module_utils import _in_process
from ansible_collections.flotilla.dask.plugins.module_utils._environment_side import scheduler_state
from ansible_collections.flotilla.dask.plugins.module_utils._secrets import Store
from ansible_collections.flotilla.dask.plugins.module_utils._wait import wait_for
from ansible_collections.flotilla.dask.plugins.module_utils.launch.plan import launch_plan, promised_workers
from ansible_collections.flotilla.dask.plugins.module_utils.launch.processes import IN_PROCESS
from ansible_collections.flotilla.dask.plugins.module_utils.launch.settings import launch_secrets

ROOT = Path(__file__).parents[2]
LOOPBACK = "127.0.0.1"
NAME = "of_the_tests"
AUTHORITY = certificates.authority()
SECRETS: dict[str, t.Any] = {
    "dask_secrets": {"EVERYBODYS": "shared-hunter2"},
    "dask_worker_groups": [{"name": "one", "secrets": {"OF_ONE": "single-hunter2"}}, {"name": "two"}],
}
"""Secrets of the cluster, and its groups of workers."""
SECONDS = 180.0
"""Far more than anything takes; what is waited for is a condition, never the time."""


@dataclass
class Ansible:
    """Runs modules of the collection on this machine.

    :ivar interpreter: A Python without any of the cluster's packages, such as hosts have.
    """

    directory: Path
    home: Path
    interpreter: Path = Path(sys.base_prefix, "bin", "python3")

    @functools.cached_property
    def _server(self) -> AnsibleServer:
        environment = {
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
            "ANSIBLE_HOME": str(self.directory / "ansible"),
            "ANSIBLE_NOCOLOR": "1",
            "HOME": str(self.directory),
        }
        inventory = "localhost ansible_connection=local ansible_python_interpreter={0}\n".format(self.interpreter)
        (self.directory / "hosts").write_text(inventory)
        return AnsibleServer(environment, self.directory)

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._server.run(command, "--inventory", str(self.directory / "hosts"), *arguments, timeout=SECONDS)

    def module(self, module: str, *flags: str, **options: t.Any) -> dict[str, t.Any]:
        """Runs a module as a task and returns its result; ``shown`` is what the task printed besides, ``warned`` are
        warnings.
        """
        arguments = json.dumps({"home": str(self.home), "cluster": NAME, **options})
        outcome = self.run("ansible", "localhost", "-m", "flotilla.dask." + module, "-a", arguments, *flags)
        before, arrow, result = outcome.stdout.partition(" => {")
        assert arrow, outcome.stdout + outcome.stderr
        said = {"shown": before, "warned": outcome.stderr, "failed": "FAILED!" in before}
        return {**json.loads("{" + result), **said}

    def info(self, **options: t.Any) -> dict[str, t.Any]:
        return self.module("dask_cluster_info", **options)

    def job(self, *flags: str, **options: t.Any) -> dict[str, t.Any]:
        return self.module("dask_job", *flags, **options)

    def record(self, name: str) -> dict[str, t.Any] | None:
        jobs: list[dict[str, t.Any]] = self.module("dask_job_info", name=name)["jobs"]
        return jobs[0] if jobs else None


@dataclass
class Cluster:
    """A cluster of a scheduler and two workers, kept running by the tests as a launcher does it."""

    plan: dict[str, t.Any]
    authority: certificates.Identity = AUTHORITY
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def workers(self) -> list[str]:
        """The workers' names for Dask."""
        return [process["worker"] for process in self.plan["processes"] if process["worker"]]

    @property
    def packages(self) -> Path:
        """Where plugin packages are: on the path of workers and jobs."""
        return Path(self.plan["environment"]["plugin_directory"])

    def install(self) -> None:
        """Writes what the roles write."""
        directories = self.plan["directories"]
        made = (directories["in_process"], *self.plan["writable"], directories["logs"], str(self.packages))
        for path in made:
            os.makedirs(path, exist_ok=True)
        module = Path(directories["in_process"], IN_PROCESS + ".py")
        module.write_text(Path(_in_process.__file__).read_text())
        os.makedirs(os.path.dirname(directories["identity"]), exist_ok=True)
        identity = certificates.issue(self.authority, ["here", LOOPBACK])
        Path(directories["identity"]).write_text(identity.key_text() + identity.certificate_text)
        Path(directories["authorities"]).write_text(self.authority.certificate_text)
        Path(directories["dask_configuration"]).write_text(json.dumps(self.plan["configuration"]))
        Path(directories["description"]).write_text(json.dumps(self.plan["description"]))
        for kind in ("scheduler", "worker"):
            Store(directories["secrets"], kind, launch_secrets(SECRETS)).write()

    def log(self, name: str) -> Path:
        """The file that a process of the plan writes its output to."""
        return Path(self.plan["directories"]["logs"], name + ".log")

    def launch(self, name: str, **environment: str) -> subprocess.Popen[bytes]:
        """Starts a process of the plan, with other environment variables if so asked."""
        process = next(process for process in self.plan["processes"] if process["name"] == name)
        with self.log(name).open("ab") as log:
            self.running[name] = subprocess.Popen(
                process["argv"],
                env={**os.environ, **process["environment"], **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.running[name]

    def start(self) -> None:
        """Starts whatever doesn't run, and waits until all workers have registered."""
        for process in self.plan["processes"]:
            name = process["name"]
            if name not in self.running or self.running[name].poll() is not None:
                self.launch(name)
        wait_for(lambda: self.registered() == set(self.workers), SECONDS, "the workers to register")

    def registered(self) -> set[str]:
        """The names of the workers that the scheduler knows; none where there is no scheduler."""
        try:
            identity = scheduler_state(self.plan["description"]["scheduler"], 5.0)
        except OSError:
            return set()
        return {str(worker["name"]) for worker in identity["workers"].values()}

    def kill(self, name: str) -> None:
        """Kills a process of the plan with all of its children, and waits until they are gone."""
        process = self.running[name]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(SECONDS)

    def lose(self, worker: str) -> None:
        """Kills a worker and waits until the scheduler knows."""
        self.kill(next(process["name"] for process in self.plan["processes"] if process["worker"] == worker))
        wait_for(lambda: worker not in self.registered(), SECONDS, "the scheduler to miss the worker")

    def wait_without_scheduler(self) -> None:
        """Waits until every worker has noticed that the scheduler is gone and has ended."""
        for process in self.running.values():
            process.wait(SECONDS)

    def stop(self) -> None:
        for name in reversed(list(self.running)):
            self.kill(name)


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server((LOOPBACK, 0))) for _each in range(number)]
        return [int(server.getsockname()[1]) for server in servers]


def plan_cluster(home: Path, name: str, scheduler_port: int) -> dict[str, t.Any]:
    """The launch plan of a cluster of this environment's software on this machine."""
    dashboard, *ports = free_ports(7)
    groups = [
        {"memory": "512 MiB", "ports": dict(zip(("worker", "nanny", "dashboard"), first)), **group}
        for group, first in zip(SECRETS["dask_worker_groups"], (ports[:3], ports[3:]))
    ]
    return launch_plan(
        {
            "dask_cluster_name": name,
            "dask_home": str(home),
            "dask_scope": "user",
            "dask_host": {"name": "here", "address": LOOPBACK, "user": os.environ.get("USER", "root")},
            "dask_scheduler_address": LOOPBACK,
            "dask_scheduler_port": scheduler_port,
            "dask_scheduler_dashboard_port": dashboard,
            "dask_worker_groups": groups,
            "dask_secrets": SECRETS["dask_secrets"],
            "dask_runs_scheduler": True,
            "dask_runs_workers": True,
            "dask_promised_workers": promised_workers({"here": groups}),
            "dask_environment_method": "existing",
            "dask_environment_path": sys.prefix,
            "dask_environment_plugin_sources": [{"requirement": "lab", "digest": "lab"}],
        }
    )


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[tuple[Ansible, Cluster]]:
    directory = tmp_path_factory.mktemp("cluster")
    home = directory / "clusters"
    (port,) = free_ports(1)
    cluster = Cluster(plan_cluster(home, NAME, port))
    cluster.install()
    (cluster.packages / "lab.py").write_text((ROOT / "tests" / "cluster" / "lab.py").read_text())
    try:
        # This process is a client too.
        with dask.config.set(dask.config.merge(dask.config.config, cluster.plan["configuration"])):
            yield Ansible(directory, home), cluster
    finally:
        cluster.stop()
        leftovers = processes_that_mention(str(directory))
        for pid in leftovers:
            os.kill(pid, signal.SIGKILL)
    assert not leftovers, "jobs outlived the tests"


@pytest.fixture
def ansible(place: tuple[Ansible, Cluster]) -> Ansible:
    return place[0]


@pytest.fixture
def cluster(place: tuple[Ansible, Cluster]) -> Cluster:
    """The cluster, healthy whatever the test before did to it."""
    place[1].start()
    return place[1]


@pytest.fixture
def silent_cluster(place: tuple[Ansible, Cluster]) -> t.Iterator[str]:
    """The name of a second cluster, whose scheduler takes connections and never says a word."""
    with socket.create_server((LOOPBACK, 0)) as server:
        silent = Cluster(plan_cluster(place[0].home, "silent", server.getsockname()[1]))
        silent.install()
        yield "silent"
        os.unlink(silent.plan["directories"]["description"])


def processes_that_mention(text: str) -> list[int]:
    """The processes with ``text`` in their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if text in path.read_text(errors="replace"):
                found.append(int(path.parent.name))
    return found
