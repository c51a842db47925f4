# Copyright: (c) 2026, The flotilla.dask contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of all scenarios work with: the hosts, and Ansible run on them as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import testinfra
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

Result = dict[str, Any]


class Hosts:
    """The scenario's hosts, over SSH, with root's rights: `hosts["worker1"]`, `hosts.group("dask_workers")`."""

    def __init__(self, inventory: str) -> None:
        self._inventory = inventory
        self._runner = AnsibleRunner(inventory)

    def __getitem__(self, name: str) -> Host:
        return testinfra.get_host(f"ansible://{name}?ansible_inventory={self._inventory}")

    def group(self, pattern: str) -> dict[str, Host]:
        return {name: self[name] for name in self._runner.get_hosts(pattern)}


@dataclass(frozen=True)
class Run:
    """What a run of Ansible did.

    `stats` are the numbers of its recap by host, `tasks` the results of its tasks in order, each by host.
    """

    returncode: int
    stats: dict[str, dict[str, int]] = field(repr=False)
    tasks: list[tuple[str, dict[str, Result]]] = field(repr=False)
    output: str

    @property
    def ok(self) -> bool:
        return self.returncode == 0

    @property
    def changed(self) -> dict[str, list[str]]:
        """The hosts on which a task changed something, by the task's name."""
        return self._having("changed")

    @property
    def failed(self) -> dict[str, list[str]]:
        """The hosts on which a task failed or that it could not reach, by the task's name."""
        return self._having("failed", "unreachable")

    @property
    def problems(self) -> str:
        """What went wrong, in Ansible's words, for the message of an assertion."""
        words = [
            f"{name}, {host}: {result.get('msg', result)}"
            for name, results in self.tasks
            for host, result in results.items()
            if result.get("failed") or result.get("unreachable")
        ]
        return "\n".join(words) or self.output

    def _having(self, *keys: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, results in self.tasks:
            for host, result in results.items():
                if any(result.get(key) for key in keys):
                    found.setdefault(name, []).append(host)
        return found


class Ansible:
    """Ansible's own commands, run on the scenario's inventory."""

    def __init__(self, inventory: Path) -> None:
        self._inventory = inventory

    def module(self, hosts: str, module: str, *options: str, **args: object) -> dict[str, Result]:
        """The results of one module by host, failed ones too; options are those of the command, as `--check`."""
        arguments = ["--args", json.dumps(args)] if args else []
        run = self._run("ansible", hosts, "--module-name", module, *arguments, *options)
        assert run.tasks, run.output
        return run.tasks[-1][1]

    def playbook(self, playbook: str, *options: str, extra_vars: Mapping[str, object] | None = None) -> Run:
        """Runs a playbook: of the collection (`flotilla.dask.site`) or a file."""
        return self._run("ansible-playbook", playbook, "--extra-vars", json.dumps(extra_vars or {}), *options)

    def _run(self, *command: str) -> Run:
        environment = {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", "ANSIBLE_LOAD_CALLBACK_PLUGINS": "true"}
        done = subprocess.run(
            [*command, "--inventory", str(self._inventory)],
            capture_output=True,
            text=True,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
        )
        start = done.stdout.find("{")  # what comes before are notices
        report = json.loads(done.stdout[start:]) if start >= 0 else {"plays": [], "stats": {}}
        tasks = [(task["task"]["name"], task["hosts"]) for play in report["plays"] for task in play["tasks"]]
        return Run(done.returncode, report["stats"], tasks, done.stdout + done.stderr)


# Puts data on the worker that its argument names; prints as JSON where it is, and again when a file releases it.
SCATTER = """
import json
import os
import sys
import time
from distributed import Client

with Client() as client:
    workers = client.scheduler_info(n_workers=-1)["workers"]
    (here,) = [address for address, worker in workers.items() if worker["name"] == sys.argv[1]]
    data = client.scatter(os.urandom(5_000_000), workers=[here], direct=True)
    print(json.dumps({"here": here, "on": [list(where) for where in client.who_has().values()]}))
    with open("scattered", "w"):
        pass
    while not os.path.exists("release"):
        time.sleep(0.1)
    print(json.dumps({"on": [list(where) for where in client.who_has().values()], "bytes": len(data.result())}))
"""


class Scattered:
    """5 MB on one worker, held by a job on the scheduler's host until they are released.

    `work` is the job's directory there, `flags` and `options` say whose cluster it is. The job goes with the context.
    """

    def __init__(
        self,
        ansible: Ansible,
        host: Host,
        worker: str,
        work: str = "/var/lib/dask/main/jobs/{}/work",
        flags: tuple[str, ...] = (),
        **options: object,
    ) -> None:
        self._ansible, self._host, self._flags = ansible, host, flags
        self._options = {"name": f"scattered-to-{worker}", **options}
        self._work = work.format(self._options["name"])
        self._job(state="submitted", **self._script(worker))
        self._worker = worker
        wait_until(lambda: bool(host.file(f"{self._work}/scattered").exists), "the data is on the worker")

    def release(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the job saw: `here`, the worker's address, `on`, where the data is; and that again, with its `bytes`."""
        self._host.check_output(f"touch {self._work}/release")
        lines = self._job(**self._script(self._worker))["job"]["output"].splitlines()
        before, after = (json.loads(line) for line in lines if line.startswith("{"))
        assert before["on"] == [[before["here"]]]
        return before, after

    def __enter__(self) -> Scattered:
        return self

    def __exit__(self, *_details: object) -> None:
        self._job(state="absent")

    @staticmethod
    def _script(worker: str) -> dict[str, object]:
        return {"script": "scatter.py", "content": SCATTER, "arguments": [worker]}

    def _job(self, **options: object) -> Result:
        arguments = {**self._options, **options}
        (result,) = self._ansible.module("scheduler", "flotilla.dask.dask_job", *self._flags, **arguments).values()
        assert not result.get("failed"), result["msg"]
        return result


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 60) -> None:
    """Waits for a condition, and fails in words if it does not come true within `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"waited {timeout:g} s until {what}, in vain"
        time.sleep(0.2)
